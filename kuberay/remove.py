"""Take a deployment out of the cluster: everything that carries its label, in the reverse order, and nothing else."""

from dataclasses import dataclass

from kuberay import names
from kuberay.api import Api, ForbiddenError
from kuberay.clusters import Clusters
from kuberay.objects import KINDS, Manifest, title
from kuberay.spec import Spec

_KINDS = (
    *("RayService", "RayCluster", "Job", "PodMonitoring", "Rules", "PodMonitor", "PrometheusRule"),
    *("PodDisruptionBudget", "NetworkPolicy"),
    *("ResourceClaimTemplate", "ComputeClass", "RoleBinding", "Role", "ServiceAccount"),
)
"""What render makes, users before what they use. Pods and services are KubeRay's, and go with their cluster."""
_POLICIES = ("ValidatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy")
_TENANTS = ("RayCluster", "RayService", "Pod", "Job", "Deployment", "Service", "ConfigMap", "Secret", "ServiceAccount")
_KUBERNETES_OWN = ("kube-root-ca.crt", "default")


@dataclass(frozen=True)
class Removal:
    """What would be, or was, removed, and the kinds that this user may not list (objects of those are left)."""

    objects: tuple[Manifest, ...]
    hidden: tuple[str, ...]


def plan(api: Api, spec: Spec) -> Removal:
    """Every object of this deployment, in the order of removal."""
    selector = f"app.kubernetes.io/instance={spec.name},app.kubernetes.io/managed-by={names.MANAGER}"
    # Of kinds that users may not list.
    named = [("ConfigMap", name(spec.name)) for name in (names.serve_config_map, names.dashboards)]
    named += [("Secret", names.service_token_secret(spec.name))] if spec.kind == "RayService" else []
    removed = [{**live, "kind": kind} for kind, name in named if (live := api.get(kind, name, spec.namespace))]
    hidden: list[str] = []
    for kind in (*_KINDS, *_POLICIES):
        try:
            if kind in _POLICIES:  # by name: another namespace may have a deployment of the same name, so of the same labels
                policy = api.get(kind, names.pod_policy(spec.namespace, spec.name))
                objects = [policy] if policy else []
            else:
                objects = api.objects(kind, spec.namespace if KINDS[kind].namespaced else None, selector)
        except ForbiddenError:
            hidden.append(kind)
            continue
        removed += [{**live, "kind": kind} for live in objects if "ownerReferences" not in live["metadata"]]
    return Removal(tuple(removed), tuple(hidden))


def remove(api: Api, clusters: Clusters, manifest: Manifest) -> str:
    """Delete one object; what was done, for people. What this user may not delete stays, and is named."""
    metadata = manifest["metadata"]
    try:
        if manifest["kind"] == "RayCluster":
            clusters.delete(metadata["name"], metadata["namespace"])
        else:
            api.delete(manifest["kind"], metadata["name"], metadata.get("namespace"))
    except ForbiddenError:
        return f"{title(manifest)} stays: you may not delete it"
    return f"{title(manifest)} deleted"


def remove_namespace(api: Api, spec: Spec) -> str | None:
    """Delete the namespace if this project made it and nothing else lives in it; what was done, or None if it is not ours."""
    try:
        live = api.get("Namespace", spec.namespace)
        if not live or (live["metadata"].get("labels") or {}).get("app.kubernetes.io/managed-by") != names.MANAGER:
            return None
        if tenants := _tenants(api, spec.namespace):
            return f"Namespace/{spec.namespace} stays: it has {', '.join(tenants[:5])}"
        api.delete("Namespace", spec.namespace, None)
    except ForbiddenError:
        return f"Namespace/{spec.namespace} stays: you may not delete it"
    return f"Namespace/{spec.namespace} deleted"


def _tenants(api: Api, namespace: str) -> list[str]:
    objects = [{**live, "kind": kind} for kind in _TENANTS for live in api.objects(kind, namespace)]
    staying = [live for live in objects if "deletionTimestamp" not in live["metadata"]]
    return [title(live) for live in staying if live["metadata"]["name"] not in _KUBERNETES_OWN]

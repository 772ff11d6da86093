"""Take a deployment out of the cluster: everything that carries its label, in the reverse order, and nothing else."""

from collections.abc import Iterable

from kuberay import names
from kuberay.api import Api, ForbiddenError
from kuberay.objects import KINDS, Manifest, title
from kuberay.spec import Spec

_POLICIES = ("ValidatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy")
_KINDS = (
    *("ConfigMap", "Secret", "RayService", "RayCluster", "Job", "PodMonitoring", "Rules", "PodMonitor", "PrometheusRule"),
    *("PodDisruptionBudget", "NetworkPolicy", "HTTPRoute", "Gateway", "GCPBackendPolicy", "HealthCheckPolicy", "Service"),
    *("ResourceClaimTemplate", "ComputeClass", "RoleBinding", "Role", "ServiceAccount", *_POLICIES),
)
"""What this project makes, users before what they use, and last what limits them. Pods are KubeRay's, as are a cluster's own
services, and go with their cluster."""
_TENANTS = ("RayCluster", "RayService", "Pod", "Job", "Deployment", "Service", "ConfigMap", "Secret", "ServiceAccount")
_KUBERNETES_OWN = ("kube-root-ca.crt", "default")


def plan(api: Api, spec: Spec) -> tuple[list[Manifest], list[str]]:
    """Every object of this deployment, in the order of removal; and the kinds that this user may not list, which are left.

    Raises `ForbiddenError` for a user who may see no kind.
    """
    removed: list[Manifest] = []
    hidden: list[str] = []
    forbidden: list[ForbiddenError] = []
    for kind in _KINDS:
        try:
            there = _live(api, spec, kind)
            removed += [{**live, "kind": kind} for live in there if "ownerReferences" not in live["metadata"]]
        except ForbiddenError as error:
            forbidden.append(error)
            hidden += [] if kind == "Secret" and spec.kind == "RayCluster" else [kind]  # which has none of its own
    if len(forbidden) == len(_KINDS):
        raise forbidden[0]
    return removed, hidden


def superseded(api: Api, spec: Spec, described: Iterable[Manifest]) -> list[Manifest]:
    """Objects of this deployment that its spec does not describe any more, such as the role of somebody who has left."""
    needed = {title(manifest) for manifest in described} | {f"ConfigMap/{names.serve_config_map(spec.name)}"}
    needed |= {f"Secret/{names.service_token_secret(spec.name)}"} if spec.kind == "RayService" else set()
    there, _ = plan(api, spec)
    return [live for live in there if title(live) not in needed]


def _live(api: Api, spec: Spec, kind: str) -> list[Manifest]:
    namespace = spec.namespace if KINDS[kind].namespaced else None
    # by name: users may not list their kind, or another namespace has some of the same labels
    named = {
        "ConfigMap": (names.serve_config_map(spec.name), names.dashboards(spec.name)),
        "Secret": (names.service_token_secret(spec.name),),
        **dict.fromkeys(_POLICIES, (names.pod_policy(spec.namespace, spec.name),)),
    }
    if kind in named:
        return [live for name in named[kind] if (live := api.get(kind, name, namespace))]
    return api.objects(kind, namespace, f"app.kubernetes.io/instance={spec.name},app.kubernetes.io/managed-by={names.MANAGER}")


def remove(api: Api, manifest: Manifest) -> str | None:
    """Delete one object. What this user may not delete stays, and is named in what is returned."""
    metadata = manifest["metadata"]
    try:
        api.delete(manifest["kind"], metadata["name"], metadata.get("namespace"))
    except ForbiddenError:
        return f"{title(manifest)} stays: you may not delete it"
    return None


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

"""Who is who, and who may do what: the namespace, the pods' accounts, and the roles of those who work with the cluster.

Whoever may make pods can read what those pods read (manifests/admission.py bounds that), so this is a role of its own.
"""

from functools import partial

from kuberay import names
from kuberay.manifests import manifest
from kuberay.objects import KINDS, Manifest
from kuberay.spec import Spec

_READ = ["get", "list", "watch"]
_WRITE = ["create", "update", "patch", "delete"]
_RBAC = KINDS["Role"].group


def namespace(spec: Spec) -> Manifest:
    """The namespace; its pods have no rights beyond those of a plain process, unless the spec wants root or capabilities."""
    level = "privileged" if spec.slices.capabilities else "baseline" if spec.slices.run_as_root else "restricted"
    labels = {"pod-security.kubernetes.io/enforce": level, "app.kubernetes.io/managed-by": names.MANAGER}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": spec.namespace, "labels": labels}}


def service_accounts(spec: Spec) -> list[Manifest]:
    """One that reads the bucket, for serving, and one that writes it, for staging; the rights are given in Google Cloud."""
    account = partial(manifest, spec, "access", "ServiceAccount", automountServiceAccountToken=False)
    return [account(names.serving_account(spec.name)), account(names.staging_account(spec.name))]


def user_roles(spec: Spec) -> list[Manifest]:
    """A role for each group of users, and a binding where the spec names somebody."""
    viewing = _viewing(spec)
    deploying = [*viewing, *_deploying(spec)]
    making_pods = [_rule("ray.io", ["rayclusters", "rayservices"], _WRITE), _rule("batch", ["jobs"], _WRITE)]
    rules = {"viewers": viewing, "deployers": deploying, "admins": [*deploying, *making_pods]}
    roles = []
    for group, users in spec.users:
        name = names.users_role(spec.name, group)
        roles.append(manifest(spec, "access", "Role", name, rules=rules[group]))
        if users:
            reference = {"apiGroup": _RBAC, "kind": "Role", "name": name}
            subjects = [_subject(user) for user in users]
            roles.append(manifest(spec, "access", "RoleBinding", name, roleRef=reference, subjects=subjects))
    return roles


def _viewing(spec: Spec) -> list[Manifest]:
    """`status`, `wait`, `logs`, `doctor`: no secret, no way into a pod."""
    return [
        _rule("ray.io", ["rayclusters", "rayservices"], _READ),
        _rule("ray.io", ["rayclusters/status", "rayservices/status"], ["get"]),
        _rule("batch", ["jobs"], _READ),
        _rule("", ["pods", "pods/log", "events", "services", "serviceaccounts", "resourcequotas"], _READ),
        _rule("", ["configmaps"], ["get"], names.serve_config_map(spec.name)),
        _rule("", ["configmaps"], ["get"], names.dashboards(spec.name)),
        _rule("resource.k8s.io", ["resourceclaimtemplates", "resourceclaims"], _READ),
        _rule("networking.k8s.io", ["networkpolicies"], _READ),
        _rule("policy", ["poddisruptionbudgets"], _READ),
        _rule(KINDS["Gateway"].group, ["gateways", "httproutes"], _READ),
        _rule(KINDS["HealthCheckPolicy"].group, ["gcpbackendpolicies", "healthcheckpolicies"], _READ),
        _rule("monitoring.googleapis.com", ["podmonitorings", "rules"], _READ),
        _rule("monitoring.coreos.com", ["podmonitors", "prometheusrules"], _READ),
        _rule(_RBAC, ["roles", "rolebindings"], _READ),
    ]


def _deploying(spec: Spec) -> list[Manifest]:
    """`deploy`, `forward`: Ray's token through a forwarded port, with which Ray runs any code in the pods that are there."""
    return [
        _rule("", ["pods/portforward"], ["create", "get"]),
        _rule("", ["configmaps"], ["create"]),  # a name cannot be checked before there is one
        _rule("", ["configmaps"], ["patch", "delete"], names.serve_config_map(spec.name)),
        _rule("", ["secrets"], ["get"], names.ray_token(spec.name, spec.kind)),
    ]


def _subject(user: str) -> Manifest:
    kind, _, address = user.partition(":")
    return {"apiGroup": _RBAC, "kind": "Group" if kind == "group" else "User", "name": address}


def _rule(group: str, resources: list[str], verbs: list[str], name: str | None = None) -> Manifest:
    rule: Manifest = {"apiGroups": [group], "resources": resources, "verbs": verbs}
    return {**rule, "resourceNames": [name]} if name else rule

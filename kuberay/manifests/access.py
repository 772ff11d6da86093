"""Who is who, and who may do what: the namespace, the pods' accounts, and the roles of those who work with the cluster.

Whoever may make pods can read what those pods read (manifests/admission.py bounds that), so this is a role of its own.
"""

from typing import Any

from kuberay import names
from kuberay.spec import Spec

Manifest = dict[str, Any]
_READ = ["get", "list", "watch"]
_WRITE = ["create", "update", "patch", "delete"]
_RBAC = "rbac.authorization.k8s.io"


def namespace(spec: Spec) -> Manifest:
    """Its pods have no rights beyond those of a plain process, unless the spec wants root."""
    level = "baseline" if spec.slices.run_as_root else "restricted"
    labels = {"pod-security.kubernetes.io/enforce": level, "app.kubernetes.io/managed-by": names.MANAGER}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": spec.namespace, "labels": labels}}


def service_accounts(spec: Spec) -> list[Manifest]:
    """One that reads the bucket, for serving, and one that writes it, for staging; the rights are given in Google Cloud."""
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": _metadata(spec, name),
            "automountServiceAccountToken": False,
        }
        for name in (names.serving_account(spec.name), names.staging_account(spec.name))
    ]


def user_roles(spec: Spec) -> list[Manifest]:
    """A role for each group of users, and a binding where the spec names somebody."""
    viewing = _viewing(spec)
    deploying = [*viewing, *_deploying(spec)]
    rules = {"viewers": viewing, "deployers": deploying, "admins": [*deploying, *_MAKING_PODS]}
    found = []
    for group, users in spec.users:
        found.append(_role(spec, group, rules[group]))
        found += [_binding(spec, group, users)] if users else []
    return found


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


_MAKING_PODS = [
    {"apiGroups": ["ray.io"], "resources": ["rayclusters", "rayservices"], "verbs": _WRITE},
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": _WRITE},
]
"""`apply`, `park`, `unpark`, `down`."""


def _role(spec: Spec, group: str, rules: list[Manifest]) -> Manifest:
    metadata = _metadata(spec, names.users_role(spec.name, group))
    return {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": metadata, "rules": rules}


def _binding(spec: Spec, group: str, users: tuple[str, ...]) -> Manifest:
    name = names.users_role(spec.name, group)
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": _metadata(spec, name),
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
        "subjects": [_subject(user) for user in users],
    }


def _subject(user: str) -> Manifest:
    kind, _, address = user.partition(":")
    return {"apiGroup": _RBAC, "kind": "Group" if kind == "group" else "User", "name": address}


def _rule(group: str, resources: list[str], verbs: list[str], name: str | None = None) -> Manifest:
    rule: Manifest = {"apiGroups": [group], "resources": resources, "verbs": verbs}
    return {**rule, "resourceNames": [name]} if name else rule


def _metadata(spec: Spec, name: str) -> Manifest:
    return {"name": name, "namespace": spec.namespace, "labels": names.labels(spec.name, "access")}

"""Kubernetes objects as plain dicts: the kinds in use here, their paths at the API server, and their quantities."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of object: its API version, its plural in paths, and whether it lives in a namespace."""

    name: str
    api_version: str
    plural: str
    namespaced: bool

    @property
    def group(self) -> str:
        """Empty for Kubernetes' core."""
        return self.api_version.rpartition("/")[0]

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL's path of one object, or of all; `namespace` is not used for what has none."""
        parts = ["apis" if self.group else "api", self.api_version]
        parts += ["namespaces", namespace] if self.namespaced and namespace else []
        parts += [self.plural, *(part for part in (name, subresource) if part)]
        return "/" + "/".join(parts)


_BY_VERSION = {
    "v1": ("Namespace", "Node", "Pod", "Event", "Service", "Secret", "ConfigMap", "ResourceQuota", "ServiceAccount"),
    "batch/v1": ("Job",),
    "apps/v1": ("Deployment",),
    "rbac.authorization.k8s.io/v1": ("Role", "RoleBinding"),
    "networking.k8s.io/v1": ("NetworkPolicy",),
    "policy/v1": ("PodDisruptionBudget",),
    "resource.k8s.io/v1": ("ResourceClaimTemplate", "ResourceClaim", "DeviceClass"),
    "apiextensions.k8s.io/v1": ("CustomResourceDefinition",),
    "admissionregistration.k8s.io/v1": (
        *("MutatingWebhookConfiguration", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
    ),
    "authorization.k8s.io/v1": ("SelfSubjectAccessReview",),
    "cloud.google.com/v1": ("ComputeClass",),
    "gateway.networking.k8s.io/v1": ("Gateway", "HTTPRoute"),
    "networking.gke.io/v1": ("GCPBackendPolicy", "HealthCheckPolicy"),
    "monitoring.googleapis.com/v1": ("PodMonitoring", "Rules"),
    "monitoring.coreos.com/v1": ("PodMonitor", "PrometheusRule"),
    "ray.io/v1": ("RayCluster", "RayService"),
}
_CLUSTER_WIDE = {
    *("Namespace", "Node", "DeviceClass", "ComputeClass", *_BY_VERSION["apiextensions.k8s.io/v1"]),
    *(*_BY_VERSION["admissionregistration.k8s.io/v1"], *_BY_VERSION["authorization.k8s.io/v1"]),
}


def _plural(kind: str) -> str:
    """`networkpolicies` of `NetworkPolicy`: the plurals are English, and there is no other source of them without a server."""
    if kind == "Rules":
        return "rules"
    return re.sub("s$", "se", re.sub("(?<!a)y$", "ie", kind.lower())) + "s"


KINDS = {
    kind: Kind(kind, version, _plural(kind), kind not in _CLUSTER_WIDE)
    for version, kinds in _BY_VERSION.items()
    for kind in kinds
}


def pod_templates(manifest: Manifest) -> Iterator[Manifest]:
    """Pod templates of an object; those of a RayCluster are the head's and the hosts'."""
    spec: Manifest = manifest.get("spec") or {}
    cluster: Manifest = spec.get("rayClusterConfig") or spec
    if manifest["kind"] == "Job":
        yield spec["template"]
    elif "headGroupSpec" in cluster:
        yield cluster["headGroupSpec"]["template"]
        yield from (group["template"] for group in cluster.get("workerGroupSpecs") or [])


def title(manifest: Manifest) -> str:
    """A name for people: `RayCluster/gemma`."""
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


# Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|(m|k|[MGTPE]i?|Ki))?")
_FACTORS = {
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
}


def parse_quantity(text: str) -> Decimal:
    """The value of a quantity (`100m`, `400Gi`) in its base unit. Raises `ValueError` for anything else."""
    match = _QUANTITY.fullmatch(str(text))
    if not match:
        raise ValueError(f"{text!r} is no Kubernetes quantity such as 100m, 4 or 16Gi")
    number, exponent, unit = match.groups("")
    return Decimal(number + exponent) * _FACTORS.get(unit, 1)

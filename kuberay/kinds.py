"""Where the API server keeps each kind that this project works with."""

from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of object: its API version, its plural in paths, and whether it lives in a namespace."""

    name: str
    api_version: str
    plural: str
    namespaced: bool = True

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


_ALL = (
    Kind("Namespace", "v1", "namespaces", namespaced=False),
    Kind("Node", "v1", "nodes", namespaced=False),
    Kind("Pod", "v1", "pods"),
    Kind("Event", "v1", "events"),
    Kind("Service", "v1", "services"),
    Kind("Secret", "v1", "secrets"),
    Kind("ConfigMap", "v1", "configmaps"),
    Kind("ResourceQuota", "v1", "resourcequotas"),
    Kind("ServiceAccount", "v1", "serviceaccounts"),
    Kind("Job", "batch/v1", "jobs"),
    Kind("Deployment", "apps/v1", "deployments"),
    Kind("Role", "rbac.authorization.k8s.io/v1", "roles"),
    Kind("RoleBinding", "rbac.authorization.k8s.io/v1", "rolebindings"),
    Kind("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies"),
    Kind("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets"),
    Kind("ResourceClaimTemplate", "resource.k8s.io/v1", "resourceclaimtemplates"),
    Kind("ResourceClaim", "resource.k8s.io/v1", "resourceclaims"),
    Kind("DeviceClass", "resource.k8s.io/v1", "deviceclasses", namespaced=False),
    Kind("ComputeClass", "cloud.google.com/v1", "computeclasses", namespaced=False),
    Kind("PodMonitoring", "monitoring.googleapis.com/v1", "podmonitorings"),
    Kind("Rules", "monitoring.googleapis.com/v1", "rules"),
    Kind("PodMonitor", "monitoring.coreos.com/v1", "podmonitors"),
    Kind("PrometheusRule", "monitoring.coreos.com/v1", "prometheusrules"),
    Kind("CustomResourceDefinition", "apiextensions.k8s.io/v1", "customresourcedefinitions", namespaced=False),
    Kind("MutatingWebhookConfiguration", "admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations", namespaced=False),
    Kind("ValidatingAdmissionPolicy", "admissionregistration.k8s.io/v1", "validatingadmissionpolicies", namespaced=False),
    Kind(
        "ValidatingAdmissionPolicyBinding",
        "admissionregistration.k8s.io/v1",
        "validatingadmissionpolicybindings",
        namespaced=False,
    ),
    Kind("SelfSubjectAccessReview", "authorization.k8s.io/v1", "selfsubjectaccessreviews", namespaced=False),
    Kind("RayCluster", "ray.io/v1", "rayclusters"),
    Kind("RayService", "ray.io/v1", "rayservices"),
)
KINDS = {kind.name: kind for kind in _ALL}


def kind_of(manifest: Manifest) -> Kind:
    """The kind of a manifest."""
    return KINDS[manifest["kind"]]


def title(manifest: Manifest) -> str:
    """For people: `RayCluster/gemma`."""
    return f"{manifest['kind']}/{manifest['metadata']['name']}"

"""Kubernetes names, labels and annotations, all of them: ours, KubeRay's and GKE's. A name is derived here and nowhere else.

Source of KubeRay's: ray-operator v1.6.2, controllers/ray/utils/{constant,util}.go; of GKE's: its TPU and DRANET documentation.
"""

import re
from collections.abc import Callable

MANAGER = "ray-tpu-serve"
"""Field manager of server-side apply, and value of `app.kubernetes.io/managed-by`."""
TPU_GROUP = "tpu"
"""Name of the worker group: short, as it is a part of each host's name."""

# KubeRay
NODE_TYPE_LABEL = "ray.io/node-type"
GROUP_LABEL = "ray.io/group"
RAY_NODE_LABEL = "ray.io/is-ray-node"
SLICE_LABEL = "ray.io/worker-group-replica-name"
HOST_LABEL = "ray.io/replica-host-index"
ORIGINATOR_LABEL = "ray.io/originated-from-cr-name"
SERVE_ANNOTATION = "ray.io/enable-serve-service"
SERVE_CONFIG_KEY = "serve.yaml"
TOKEN_KEY = "auth_token"  # noqa: S105 - the key in the secret, not a secret
PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "serve": 8000, "metrics": 8080}
AGENT_PORT = 52365
VERSION_CHECK = "versions"
"""The head's first container, which fails where the image is of other versions."""

# Grafana's side-car (its Helm chart's default)
DASHBOARD_LABEL = "grafana_dashboard"

# Kueue
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
QUEUE_TOPOLOGY = "kueue.x-k8s.io/podset-required-topology"

# Kubernetes
EVICTION_ANNOTATION = "cluster-autoscaler.kubernetes.io/safe-to-evict"
JOB_LABEL = "batch.kubernetes.io/job-name"

# GKE
TPU_RESOURCE = "google.com/tpu"
ACCELERATOR_LABEL = "cloud.google.com/gke-tpu-accelerator"
TOPOLOGY_LABEL = "cloud.google.com/gke-tpu-topology"
SPOT_LABEL = "cloud.google.com/gke-spot"
COMPUTE_CLASS_LABEL = "cloud.google.com/compute-class"
CERTIFICATES_ANNOTATION = "networking.gke.io/certmap"
NETWORK_DEVICE_CLASS = "netdev.google.com"

LONGEST_CLUSTER_NAME = 41
"""GKE's TPU webhook cuts `<name>-headless` to its last 50 characters, KubeRay does not: beyond it hosts find nobody."""
LONGEST_SERVICE_NAME = 35
"""KubeRay adds six characters to a RayService's name for its RayCluster."""
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
"""A name of lower-case letters, digits and dashes that starts with a letter."""
DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""A label of lower-case letters, digits and dashes, at most 63 characters."""


# Functions of the deployment's name, such as `serving_account(spec.name)`.
service_token_secret: Callable[[str], str] = "{}-token".format
"""The secret with the token of a RayService's clusters, made by this project, so that its name can be known."""
claim_template: Callable[[str], str] = "{}-netdev".format
"""The template for each host's network interfaces."""
compute_class: Callable[[str], str] = "{}-tpu".format
"""The compute class of the TPU hosts, on Autopilot."""
serving_account: Callable[[str], str] = "{}-serve".format
"""Kubernetes service account of the Ray pods: reads the bucket."""
staging_account: Callable[[str], str] = "{}-stage".format
"""Kubernetes service account of the staging job: writes the bucket."""
staging_job: Callable[[str], str] = "{}-stage-weights".format
"""The job that brings the model from the hub to the bucket."""
serve_config_map: Callable[[str], str] = "{}-serve-config".format
"""The Serve config that was deployed last, so that it can be deployed again."""
certificate_map: Callable[[str], str] = "{}-certificates".format
"""The map of Google-managed certificates that `gke.py` makes for the addresses of `expose`."""
dashboards: Callable[[str], str] = "{}-dashboards".format
"""The dashboards, for Grafana."""
users_role: Callable[[str, str], str] = "{}-{}".format
"""The role, and the role binding, of one group of users: the deployment's name, then the group's (`viewers`)."""
pod_policy: Callable[[str, str], str] = "{}-{}-pods".format
"""What pods of a namespace may read: the namespace, then the deployment's name; it and its binding belong to no namespace."""


def ray_token(name: str, kind: str) -> str:
    """The secret with the token of a RayService, or of a RayCluster: KubeRay takes the name's last 50 characters."""
    return service_token_secret(name) if kind == "RayService" else re.sub(r"^[^a-z]", "r", name[-50:])


def pod_labels(cluster: str) -> dict[str, str]:
    """Labels of ours on Ray's pods, beside KubeRay's: the same for a RayCluster and for the one inside a RayService."""
    return {"app.kubernetes.io/instance": cluster, "app.kubernetes.io/managed-by": MANAGER}


def ray_pods(cluster: str) -> dict[str, str]:
    """What selects Ray's pods, and not the staging job's."""
    return {"app.kubernetes.io/instance": cluster, RAY_NODE_LABEL: "yes"}


def labels(cluster: str, component: str) -> dict[str, str]:
    """Labels of every object of ours."""
    return {
        "app.kubernetes.io/name": MANAGER,
        "app.kubernetes.io/instance": cluster,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": MANAGER,
    }

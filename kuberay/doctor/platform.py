"""The cluster itself: versions, KubeRay and its types, GKE's TPU webhook, DRANET, nodes."""

import re

from kuberay import names
from kuberay.doctor import GKE_DRANET, GKE_RAY, KUBERAY_ISSUE, TPU_WEBHOOK, ClusterSnapshot, Diagnosis
from kuberay.objects import Manifest, parse_quantity
from kuberay.versions import FIRST_ATOMIC_KUBERAY, FIRST_DRANET_GKE, numbers

_CRD = "rayclusters.ray.io"
_OPERATOR = "kuberay-operator"
_VARIABLES = ("TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES", "TPU_NAME")
"""What the webhook gives each host's pod; the accelerator's type is in the manifest."""
_ADD_OPERATOR = "gcloud container clusters update NAME --update-addons=RayOperator=ENABLED (gke.py up makes clusters with it)"
_NEEDED_FIELDS = ("rayVersion", "upgradeStrategy", "authOptions", "gcsFaultToleranceOptions")


def gke_version(snapshot: ClusterSnapshot) -> list[Diagnosis]:
    """A GKE that is older than DRANET."""
    version = snapshot.api.server_version()
    if snapshot.spec.slices.network != "dranet":
        return [Diagnosis("ok", f"{version}; without DRANET any that runs is fine")]
    if "-gke." not in version:
        evidence = f"{version} is not GKE's, so whether it has DRANET is not known"
        return [Diagnosis("unknown", evidence, link=GKE_DRANET)]
    if numbers(version) < numbers(FIRST_DRANET_GKE):
        fix = f"upgrade the cluster to {FIRST_DRANET_GKE} or later, or set slices.network: none"
        return [Diagnosis("error", f"{version}: DRANET for TPU begins with {FIRST_DRANET_GKE}", fix, GKE_DRANET)]
    return [Diagnosis("ok", version)]


def kuberay_types(snapshot: ClusterSnapshot) -> list[Diagnosis]:
    """KubeRay's type of object, and whether it is new enough to have what is used of it."""
    crd = snapshot.api.get("CustomResourceDefinition", _CRD)
    if crd is None:
        return [Diagnosis("error", f"there is no {_CRD}: KubeRay is not installed", _ADD_OPERATOR, GKE_RAY)]
    missing = [field for field in _NEEDED_FIELDS if field not in _cluster_fields(crd)]
    if missing:
        fix = "install a newer KubeRay; with an older one these parts of the spec are silently dropped"
        return [Diagnosis("error", f"{_CRD} has no {', '.join(missing)}", fix, KUBERAY_ISSUE.format(4140))]
    return [Diagnosis("ok", f"{_CRD} has {', '.join(_NEEDED_FIELDS)}")]


def operator(snapshot: ClusterSnapshot) -> list[Diagnosis]:
    """Whether KubeRay runs, and whether its version makes and replaces the hosts of a slice as one."""
    deployments = snapshot.api.objects("Deployment", None, f"app.kubernetes.io/name={_OPERATOR}")
    if not deployments:
        evidence = "no deployment is labelled so; GKE's add-on may keep it where it is not seen"
        return [Diagnosis("unknown", evidence, "look for events of the RayCluster: without any, nothing watches it")]
    deployment = deployments[0]
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    version = re.search(r":v?(\d+)\.(\d+)", image)
    if not deployment.get("status", {}).get("availableReplicas"):
        fix = f"see its pod in namespace {deployment['metadata']['namespace']}"
        return [Diagnosis("error", f"{image} is not running", fix)]
    if version and (int(version[1]), int(version[2])) < FIRST_ATOMIC_KUBERAY:
        fix = "install KubeRay 1.6 or later; park the cluster before: pods of the older one would be left over"
        evidence = f"{image}: when one host of a slice fails, this version does not replace the others"
        return [Diagnosis("error", evidence, fix, KUBERAY_ISSUE.format(3552))]
    return [Diagnosis("ok", image)]


def tpu_webhook(snapshot: ClusterSnapshot) -> list[Diagnosis]:
    """GKE's webhook, without which the hosts of a slice do not know each other."""
    bare = [
        (pod["metadata"]["name"], missing) for pod in snapshot.state.hosts if (missing := _missing_variables(pod, snapshot))
    ]
    fix = "enable the RayOperator add-on of GKE, which brings it; then delete the pods"
    if bare:
        evidence = f"{bare[0][0]} has no {', '.join(bare[0][1])}: its libtpu will wait for the others for ever"
        return [Diagnosis("error", evidence, fix, TPU_WEBHOOK)]
    if snapshot.state.hosts:
        return [Diagnosis("ok", f"the hosts' pods have their {', '.join(_VARIABLES)}")]
    hooks = snapshot.api.objects("MutatingWebhookConfiguration")  # as there are no hosts' pods yet
    if any("tpu" in hook["metadata"]["name"] for hook in hooks):
        return [Diagnosis("ok", "is registered")]
    return [Diagnosis("error", "no webhook for TPU pods is registered", fix, TPU_WEBHOOK)]


def dranet(snapshot: ClusterSnapshot) -> list[Diagnosis]:
    """The class of devices that the hosts' claims ask for."""
    if snapshot.spec.slices.network != "dranet":
        return []
    device_class = snapshot.api.get("DeviceClass", names.NETWORK_DEVICE_CLASS)
    if device_class is None:
        fix = "make the node pool with --accelerator-network-profile=auto (gke.py up does), or set slices.network: none"
        evidence = f"there is no DeviceClass/{names.NETWORK_DEVICE_CLASS}: the hosts' claims can never be met"
        return [Diagnosis("error", evidence, fix, GKE_DRANET)]
    return [Diagnosis("ok", f"DeviceClass/{names.NETWORK_DEVICE_CLASS} is there")]


def nodes(snapshot: ClusterSnapshot) -> list[Diagnosis]:
    """Whether there are as many TPU nodes as hosts are wanted, with the right labels and chips."""
    shape = snapshot.spec.slices.shape
    selector = f"{names.ACCELERATOR_LABEL}={shape.generation.gke_accelerator}"
    tpu_nodes = snapshot.api.objects("Node", None, selector)
    right = [node for node in tpu_nodes if node["metadata"]["labels"].get(names.TOPOLOGY_LABEL) == shape.topology]
    wanted, chips = shape.hosts * snapshot.spec.slices.count, shape.chips_per_host
    if tpu_nodes and not right:
        others = sorted({node["metadata"]["labels"].get(names.TOPOLOGY_LABEL, "none") for node in tpu_nodes})
        evidence = f"{len(tpu_nodes)} {shape.generation.name} nodes have topology {', '.join(others)}, none {shape.topology}"
        return [Diagnosis("error", evidence, "make a node pool of that topology (gke.py up)")]
    poor = [node for node in right if _allocatable(node) < chips]
    if poor:
        evidence = f"{poor[0]['metadata']['name']} offers {_allocatable(poor[0])} of {chips} chips"
        return [Diagnosis("error", evidence, "see the TPU device plugin's pod on that node in kube-system")]
    if len(right) < wanted:
        evidence = f"{len(right)} of {wanted} {shape.machine_type} nodes with topology {shape.topology} are there"
        fix = "they come when pods wait for them; if not, `scripts/cluster.py wait` has the autoscaler's reason"
        return [Diagnosis("warning", evidence, fix)]
    return [Diagnosis("ok", f"{len(right)} nodes with {chips} chips, topology {shape.topology}")]


def _allocatable(node: Manifest) -> int:
    return int(parse_quantity(node.get("status", {}).get("allocatable", {}).get(names.TPU_RESOURCE, "0")))


def _missing_variables(pod: Manifest, snapshot: ClusterSnapshot) -> list[str]:
    wanted = _VARIABLES if snapshot.spec.slices.shape.hosts > 1 else _VARIABLES[:1]
    there = {variable["name"] for variable in pod["spec"]["containers"][0].get("env", [])}
    return [name for name in wanted if name not in there]


def _cluster_fields(crd: Manifest) -> set[str]:
    versions = {version["name"]: version for version in crd["spec"]["versions"] if version.get("served")}
    schema = versions.get("v1", {}).get("schema", {}).get("openAPIV3Schema", {})
    return set(schema.get("properties", {}).get("spec", {}).get("properties", {}))

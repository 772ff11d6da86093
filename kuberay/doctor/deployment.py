"""The deployment itself: its pods, what they need, and what KubeRay made of the spec."""

from kuberay import names
from kuberay.api import ForbiddenError
from kuberay.doctor.finding import GCS_FAULT_TOLERANCE, KUBERAY_ISSUE, Diagnosis, Patient
from kuberay.kinds import Manifest
from kuberay.quantity import parse_quantity
from kuberay.reasons import pod_name, reasons
from kuberay.state import index_of_pod, slice_of_pod
from kuberay.versions import pinned


def readiness(patient: Patient) -> list[Diagnosis]:
    """Everything that `wait` would wait for."""
    if patient.state.cluster is None:
        return [Diagnosis("RayCluster", "warning", "is not there", "scripts/cluster.py apply makes it")]
    waiting = reasons(patient.state)
    if not waiting:
        return [Diagnosis("pods", "ok", "head and hosts are ready")]
    return [Diagnosis(one.who, "error" if one.hopeless else "warning", one.what, one.advice) for one in waiting]


def stale_state(patient: Patient) -> list[Diagnosis]:
    """KubeRay says `ready` of a cluster that was once ready."""
    cluster = patient.state.cluster
    if cluster is None or (cluster.get("status") or {}).get("state") != "ready" or patient.state.ready():
        return []
    evidence = "KubeRay's status.state is ready, and its pods are not"
    fix = "trust `scripts/cluster.py wait`, which counts pods"
    return [Diagnosis("status.state", "warning", evidence, fix, KUBERAY_ISSUE.format(2188))]


def old_images(patient: Patient) -> list[Diagnosis]:
    """An edited image that running pods do not have."""
    old = [pod for pod in patient.state.pods if pod["spec"]["containers"][0]["image"] != patient.spec.image]
    if not old:
        return []
    evidence = f"{pod_name(old[0])} runs {old[0]['spec']['containers'][0]['image']}, the spec says {patient.spec.image}"
    strategy = ((patient.state.cluster or {}).get("spec", {}).get("upgradeStrategy") or {}).get("type")
    fix = "scripts/cluster.py apply"
    if strategy != "Recreate":
        fix += f"; the RayCluster's upgradeStrategy is {strategy}, with which KubeRay leaves running pods as they are"
    return [Diagnosis("image", "warning", evidence, fix, KUBERAY_ISSUE.format(4140))]


def orphaned_hosts(patient: Patient) -> list[Diagnosis]:
    """Hosts' pods of a KubeRay before 1.6, which a later one does not see: it makes a second slice beside them."""
    if patient.spec.slices.shape.hosts == 1:
        return []
    orphans = [pod["metadata"]["name"] for pod in patient.state.hosts if not slice_of_pod(pod)]
    if not orphans:
        return []
    evidence = f"{len(orphans)} hosts' pods have no label {names.SLICE_LABEL}, such as {orphans[0]}: KubeRay does not own them"
    fix = "scripts/cluster.py park, then unpark: the slice is made anew"
    return [Diagnosis("orphaned hosts", "error", evidence, fix, KUBERAY_ISSUE.format(5108))]


def broken_slices(patient: Patient) -> list[Diagnosis]:
    """A slice with a host missing or twice."""
    hosts = patient.spec.slices.shape.hosts
    members: dict[str, list[int]] = {}
    for pod in patient.state.hosts:
        if slice_of_pod(pod):
            members.setdefault(slice_of_pod(pod), []).append(index_of_pod(pod))
    odd = {name: sorted(found) for name, found in members.items() if hosts > 1 and sorted(found) != list(range(hosts))}
    fix = "KubeRay 1.6 or later replaces a slice as a whole: wait, or park and unpark"
    return [
        Diagnosis("slice", "warning", f"{name} has hosts {found} of {hosts}", fix, KUBERAY_ISSUE.format(3552))
        for name, found in odd.items()
    ]


def long_name(patient: Patient) -> list[Diagnosis]:
    """A RayCluster whose name GKE's webhook cuts; a RayService's cluster has six characters more."""
    cluster = patient.state.cluster
    if cluster is None or len(cluster["metadata"]["name"]) <= names.LONGEST_CLUSTER_NAME:
        return []
    evidence = f"{cluster['metadata']['name']} has {len(cluster['metadata']['name'])} characters"
    fix = f"use a name of at most {names.LONGEST_CLUSTER_NAME}: the hosts' names of each other do not exist with a longer one"
    return [Diagnosis("name", "error", evidence, fix, KUBERAY_ISSUE.format(2923))]


def needed_objects(patient: Patient) -> list[Diagnosis]:
    """What the pods refer to, and cannot start without."""
    spec = patient.spec
    wanted = [("ServiceAccount", names.serving_account(spec.name))]
    if spec.slices.network == "dranet":
        wanted.append(("ResourceClaimTemplate", names.claim_template(spec.name)))
    wanted += [("Secret", name) for name in _secrets(patient)]
    return [one for kind, name in wanted for one in _needed(patient, kind, name)]


def quota(patient: Patient) -> list[Diagnosis]:
    """A quota of the namespace that the hosts do not fit in."""
    spec = patient.spec
    wanted = spec.slices.shape.chips * spec.slices.count
    key = f"requests.{names.TPU_RESOURCE}"
    found = []
    for one in patient.api.objects("ResourceQuota", spec.namespace):
        most = one["spec"].get("hard", {}).get(key)
        if most is not None and parse_quantity(most) < wanted:
            evidence = f"ResourceQuota/{one['metadata']['name']} allows {most} {names.TPU_RESOURCE}, the spec needs {wanted}"
            found.append(Diagnosis("quota", "error", evidence, "raise it, or ask for fewer slices"))
    return found


def ray_version(patient: Patient) -> list[Diagnosis]:
    """The Ray of the image must be the one that KubeRay was told of, and that this project is pinned to."""
    told = ((patient.state.cluster or {}).get("spec") or {}).get("rayVersion")
    if told is None or told == pinned("ray"):
        return []
    evidence = f"the RayCluster says rayVersion {told}, this project is made for {pinned('ray')}"
    return [Diagnosis("Ray version", "error", evidence, "scripts/cluster.py apply, with an image of this version")]


def image_versions(patient: Patient) -> list[Diagnosis]:
    """The image's own word on its Ray and vLLM, from the first container of the head's pod."""
    statuses = (patient.state.head or {}).get("status", {}).get("initContainerStatuses", [])
    checked: Manifest = next((one for one in statuses if one["name"] == names.VERSION_CHECK), {})
    ended = checked.get("state", {}).get("terminated") or checked.get("lastState", {}).get("terminated")
    if not ended:
        return []
    versions = f"Ray {pinned('ray')} and vLLM {pinned('vllm-tpu')}"
    if ended["exitCode"] == 0:
        return [Diagnosis("image versions", "ok", f"{checked['image']} has {versions}")]
    evidence = f"{checked['image']}: {ended.get('message') or 'it is no image of this project'}".replace("\n", " / ")
    return [Diagnosis("image versions", "error", evidence, f"build one with {versions} (scripts/gke.py up) and apply")]


def lone_head(patient: Patient) -> list[Diagnosis]:
    """Without Redis a lost head takes every app with it."""
    if patient.spec.fault_tolerance or patient.spec.kind == "RayService":
        return []
    evidence = "fault_tolerance is not set: with the head's pod the hosts restart too, and the apps must be deployed again"
    fix = "set fault_tolerance.address, or run `scripts/cluster.py deploy` after such a loss"
    return [Diagnosis("head", "warning", evidence, fix, GCS_FAULT_TOLERANCE)]


CHECKS = (
    readiness,
    stale_state,
    old_images,
    orphaned_hosts,
    broken_slices,
    long_name,
    needed_objects,
    quota,
    ray_version,
    image_versions,
    lone_head,
)


def _secrets(patient: Patient) -> list[str]:
    spec = patient.spec
    redis = spec.fault_tolerance.password if spec.fault_tolerance else None
    return [name for name in (spec.api_keys, *(key.name for key in (spec.hub_token, redis) if key)) if name]


def _needed(patient: Patient, kind: str, name: str) -> list[Diagnosis]:
    try:
        found = patient.api.get(kind, name, patient.spec.namespace)
    except ForbiddenError:
        return [Diagnosis(f"{kind}/{name}", "unknown", "you may not read it")]
    if found is not None:
        return []
    fix = "make it by hand (docs/gke.md)" if kind == "Secret" else "scripts/cluster.py apply, by someone who may"
    return [Diagnosis(f"{kind}/{name}", "error", "is not there, and pods refer to it", fix)]

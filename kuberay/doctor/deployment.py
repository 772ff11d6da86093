"""The deployment itself: its pods, what they need, what KubeRay made of the spec, and what this user may do with it."""

from kuberay import names
from kuberay.api import ForbiddenError
from kuberay.doctor import GCS_FAULT_TOLERANCE, KUBERAY_ISSUE, Check, ClusterSnapshot, Diagnosis
from kuberay.objects import Manifest, parse_quantity
from kuberay.reasons import pod_name, reasons
from kuberay.state import index_of_pod, slice_of_pod
from kuberay.versions import pinned


def readiness(snapshot: ClusterSnapshot) -> list[Diagnosis]:
    """Everything that `wait` would wait for."""
    if snapshot.state.cluster is None:
        return [Diagnosis("warning", "is not there", "scripts/cluster.py apply makes it", check="RayCluster")]
    waiting = reasons(snapshot.state)
    if not waiting:
        return [Diagnosis("ok", "head and hosts are ready")]
    return [Diagnosis("error" if each.hopeless else "warning", each.what, each.advice, check=each.who) for each in waiting]


def stale_state(snapshot: ClusterSnapshot) -> list[Diagnosis]:
    """KubeRay reports `ready` for a cluster that was once ready."""
    cluster = snapshot.state.cluster
    if cluster is None or (cluster.get("status") or {}).get("state") != "ready" or snapshot.state.ready():
        return []
    evidence = "KubeRay's status.state is ready, and its pods are not"
    fix = "trust `scripts/cluster.py wait`, which counts pods"
    return [Diagnosis("warning", evidence, fix, KUBERAY_ISSUE.format(2188))]


def old_images(snapshot: ClusterSnapshot) -> list[Diagnosis]:
    """An edited image that running pods do not have."""
    old = [pod for pod in snapshot.state.pods if pod["spec"]["containers"][0]["image"] != snapshot.spec.image]
    if not old:
        return []
    evidence = f"{pod_name(old[0])} runs {old[0]['spec']['containers'][0]['image']}, the spec wants {snapshot.spec.image}"
    strategy = ((snapshot.state.cluster or {}).get("spec", {}).get("upgradeStrategy") or {}).get("type")
    fix = "scripts/cluster.py apply"
    if strategy != "Recreate":
        fix += f"; the RayCluster's upgradeStrategy is {strategy}, with which KubeRay leaves running pods as they are"
    return [Diagnosis("warning", evidence, fix, KUBERAY_ISSUE.format(4140))]


def orphaned_hosts(snapshot: ClusterSnapshot) -> list[Diagnosis]:
    """Hosts' pods of a KubeRay before 1.6, which a later one does not see: it makes a second slice beside them."""
    if snapshot.spec.slices.shape.hosts == 1:
        return []
    orphans = [pod["metadata"]["name"] for pod in snapshot.state.hosts if not slice_of_pod(pod)]
    if not orphans:
        return []
    evidence = f"{len(orphans)} hosts' pods have no label {names.SLICE_LABEL}, such as {orphans[0]}: KubeRay does not own them"
    fix = "scripts/cluster.py park, then unpark: the slice is made anew"
    return [Diagnosis("error", evidence, fix, KUBERAY_ISSUE.format(5108))]


def broken_slices(snapshot: ClusterSnapshot) -> list[Diagnosis]:
    """A slice with a host missing or twice."""
    hosts = snapshot.spec.slices.shape.hosts
    members: dict[str, list[int]] = {}
    for pod in snapshot.state.hosts:
        if slice_of_pod(pod):
            members.setdefault(slice_of_pod(pod), []).append(index_of_pod(pod))
    odd = {name: sorted(indexes) for name, indexes in members.items() if hosts > 1 and sorted(indexes) != list(range(hosts))}
    fix = "KubeRay 1.6 or later replaces a slice as a whole: wait, or park and unpark"
    return [
        Diagnosis("warning", f"{name} has hosts {indexes} of {hosts}", fix, KUBERAY_ISSUE.format(3552))
        for name, indexes in odd.items()
    ]


def long_name(snapshot: ClusterSnapshot) -> list[Diagnosis]:
    """A RayCluster whose name GKE's webhook cuts; a RayService's cluster has six characters more."""
    cluster = snapshot.state.cluster
    if cluster is None or len(cluster["metadata"]["name"]) <= names.LONGEST_CLUSTER_NAME:
        return []
    evidence = f"{cluster['metadata']['name']} has {len(cluster['metadata']['name'])} characters"
    fix = f"use a name of at most {names.LONGEST_CLUSTER_NAME}: the hosts' names of each other do not exist with a longer one"
    return [Diagnosis("error", evidence, fix, KUBERAY_ISSUE.format(2923))]


def needed_objects(snapshot: ClusterSnapshot) -> list[Diagnosis]:
    """What the pods refer to, and cannot start without."""
    spec = snapshot.spec
    wanted = [("ServiceAccount", names.serving_account(spec.name))]
    if spec.slices.network == "dranet":
        wanted.append(("ResourceClaimTemplate", names.claim_template(spec.name)))
    wanted += [("Secret", name) for name in spec.secrets]
    return [diagnosis for kind, name in wanted for diagnosis in _needed(snapshot, kind, name)]


def quotas(snapshot: ClusterSnapshot) -> list[Diagnosis]:
    """A quota of the namespace that the hosts do not fit in."""
    spec = snapshot.spec
    wanted = spec.slices.shape.chips * spec.slices.count
    key = f"requests.{names.TPU_RESOURCE}"
    diagnoses = []
    for quota in snapshot.api.objects("ResourceQuota", spec.namespace):
        limit = quota["spec"].get("hard", {}).get(key)
        if limit is not None and parse_quantity(limit) < wanted:
            evidence = f"ResourceQuota/{quota['metadata']['name']} allows {limit} {names.TPU_RESOURCE}, the spec needs {wanted}"
            diagnoses.append(Diagnosis("error", evidence, "raise it, or ask for fewer slices"))
    return diagnoses


def ray_version(snapshot: ClusterSnapshot) -> list[Diagnosis]:
    """A Ray version in the RayCluster that is not the one that this project is pinned to."""
    version = ((snapshot.state.cluster or {}).get("spec") or {}).get("rayVersion")
    if version is None or version == pinned("ray"):
        return []
    evidence = f"the RayCluster has rayVersion {version}, this project is made for {pinned('ray')}"
    return [Diagnosis("error", evidence, "scripts/cluster.py apply, with an image of this version")]


def image_versions(snapshot: ClusterSnapshot) -> list[Diagnosis]:
    """What the image itself reports on its Ray and vLLM, from the first container of the head's pod."""
    statuses = (snapshot.state.head or {}).get("status", {}).get("initContainerStatuses", [])
    checked: Manifest = next((status for status in statuses if status["name"] == names.VERSION_CHECK), {})
    ended = checked.get("state", {}).get("terminated") or checked.get("lastState", {}).get("terminated")
    if not ended:
        return []
    versions = f"Ray {pinned('ray')} and vLLM {pinned('vllm-tpu')}"
    if ended["exitCode"] == 0:
        return [Diagnosis("ok", f"{checked['image']} has {versions}")]
    evidence = f"{checked['image']}: {ended.get('message') or 'it is no image of this project'}".replace("\n", " / ")
    return [Diagnosis("error", evidence, f"build one with {versions} (scripts/gke.py up) and apply")]


def lone_head(snapshot: ClusterSnapshot) -> list[Diagnosis]:
    """A head without Redis, with which every replica ends when it is lost."""
    if snapshot.spec.fault_tolerance or snapshot.spec.kind == "RayService":
        return []
    evidence = "fault_tolerance is not set: with the head's pod the hosts restart too, and the model is loaded anew"
    fix = "set fault_tolerance.address, or live with half an hour without the model after such a loss"
    return [Diagnosis("warning", evidence, fix, GCS_FAULT_TOLERANCE)]


def rights(snapshot: ClusterSnapshot) -> list[Diagnosis]:
    """`kubectl auth can-i`, for everything that the commands do."""
    spec, missing = snapshot.spec, []
    for commands, wanted in _RIGHTS.items():
        for verb, kind, subresource in wanted:
            name = kind.format(main=spec.kind)
            if not snapshot.api.may(verb, name, spec.namespace, subresource):
                missing.append(f"{verb} {name}{f'/{subresource}' if subresource else ''} (for {commands})")
    if missing:
        fix = f"have an administrator add you to `users` in the spec and apply it (namespace {spec.namespace})"
        return [Diagnosis("error", f"you may not {', '.join(missing)}", fix)]
    return [Diagnosis("ok", "you may run every command")]


CHECKS: dict[str, Check] = {
    "rights": rights,
    "pods": readiness,
    "status.state": stale_state,
    "image": old_images,
    "orphaned hosts": orphaned_hosts,
    "slice": broken_slices,
    "name": long_name,
    "needed objects": needed_objects,
    "quota": quotas,
    "Ray version": ray_version,
    "image versions": image_versions,
    "head": lone_head,
}
_RIGHTS = {
    "apply": (("patch", "{main}", ""), ("create", "{main}", ""), ("create", "Job", "")),
    "wait, status": (("get", "{main}", ""), ("list", "Pod", ""), ("list", "Event", "")),
    "deploy, forward": (("create", "Pod", "portforward"),),
    "logs": (("get", "Pod", "log"),),
    "down": (("delete", "{main}", ""),),
}
"""What each command of scripts/cluster.py needs: verb, kind, subresource."""


def _needed(snapshot: ClusterSnapshot, kind: str, name: str) -> list[Diagnosis]:
    try:
        live = snapshot.api.get(kind, name, snapshot.spec.namespace)
    except ForbiddenError:
        return [Diagnosis("unknown", "you may not read it", check=f"{kind}/{name}")]
    if live is not None:
        return []
    fix = "make it by hand (docs/gke.md)" if kind == "Secret" else "scripts/cluster.py apply, by someone who may"
    return [Diagnosis("error", "is not there, and pods refer to it", fix, check=f"{kind}/{name}")]

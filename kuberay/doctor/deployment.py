"""The deployment itself: its pods, what they need, what KubeRay made of the spec, and what this user may do with it."""

import itertools
from collections.abc import Iterator

from kuberay import names
from kuberay.api import ForbiddenError
from kuberay.doctor import GCS_FAULT_TOLERANCE, KUBERAY_ISSUE, ClusterSnapshot, Diagnosis
from kuberay.objects import Manifest, parse_quantity
from kuberay.reasons import pod_name, reasons
from kuberay.state import ended, index_of_pod, slice_of_pod
from kuberay.versions import pinned

_RIGHTS = {
    "apply": (("patch", "{main}", ""), ("create", "{main}", ""), ("create", "Job", "")),
    "wait, status": (("get", "{main}", ""), ("list", "Pod", ""), ("list", "Event", "")),
    "deploy, forward": (("create", "Pod", "portforward"),),
    "logs": (("get", "Pod", "log"),),
    "down": (("delete", "{main}", ""),),
}
"""What each command of scripts/cluster.py needs: verb, kind, subresource."""


def readiness(snapshot: ClusterSnapshot) -> Iterator[Diagnosis]:
    """Everything that `wait` would wait for."""
    if snapshot.state.cluster is None:
        yield Diagnosis("warning", "is not there", "scripts/cluster.py apply makes it", check="RayCluster")
        return
    waiting = reasons(snapshot.state)
    if not waiting:
        yield Diagnosis("ok", "head and hosts are ready")
    for each in waiting:
        yield Diagnosis("error" if each.hopeless else "warning", each.what, each.advice, check=each.who)


def stale_state(snapshot: ClusterSnapshot) -> Iterator[Diagnosis]:
    """KubeRay reports `ready` for a cluster that was once ready."""
    status = (snapshot.state.cluster or {}).get("status") or {}
    if status.get("state") == "ready" and not snapshot.state.ready():
        evidence = "KubeRay's status.state is ready, and its pods are not"
        yield Diagnosis("warning", evidence, "trust `scripts/cluster.py wait`, which counts pods", KUBERAY_ISSUE.format(2188))


def old_images(snapshot: ClusterSnapshot) -> Iterator[Diagnosis]:
    """An edited image that running pods do not have."""
    images = [(pod_name(pod), pod["spec"]["containers"][0]["image"]) for pod in snapshot.state.pods]
    old = [f"{name} runs {image}" for name, image in images if image != snapshot.spec.image]
    strategy = ((snapshot.state.cluster or {}).get("spec", {}).get("upgradeStrategy") or {}).get("type")
    fix = "scripts/cluster.py apply"
    if strategy != "Recreate":
        fix += f"; the RayCluster's upgradeStrategy is {strategy}, with which KubeRay leaves running pods as they are"
    if old:
        yield Diagnosis("warning", f"{old[0]}, the spec wants {snapshot.spec.image}", fix, KUBERAY_ISSUE.format(4140))


def orphaned_hosts(snapshot: ClusterSnapshot) -> Iterator[Diagnosis]:
    """Hosts' pods of a KubeRay before 1.6, which a later one does not see: it makes a second slice beside them."""
    orphans = [pod["metadata"]["name"] for pod in snapshot.state.hosts if not slice_of_pod(pod)]
    if orphans and snapshot.spec.slices.shape.hosts > 1:
        evidence = (
            f"{len(orphans)} hosts' pods have no label {names.SLICE_LABEL}, such as {orphans[0]}: KubeRay does not own them"
        )
        fix = "scripts/cluster.py park, then unpark: the slice is made anew"
        yield Diagnosis("error", evidence, fix, KUBERAY_ISSUE.format(5108))


def broken_slices(snapshot: ClusterSnapshot) -> Iterator[Diagnosis]:
    """A slice with a host missing or twice."""
    hosts = snapshot.spec.slices.shape.hosts
    fix = "KubeRay 1.6 or later replaces a slice as a whole: wait, or park and unpark"
    for name, pods in itertools.groupby(snapshot.state.hosts, slice_of_pod):  # which are sorted by slice and index
        indexes = [index_of_pod(pod) for pod in pods]
        if name and hosts > 1 and indexes != list(range(hosts)):
            yield Diagnosis("warning", f"{name} has hosts {indexes} of {hosts}", fix, KUBERAY_ISSUE.format(3552))


def long_name(snapshot: ClusterSnapshot) -> Iterator[Diagnosis]:
    """A RayCluster whose name GKE's webhook cuts; a RayService's cluster has six characters more."""
    name = snapshot.state.cluster["metadata"]["name"] if snapshot.state.cluster else ""
    if len(name) > names.LONGEST_CLUSTER_NAME:
        fix = (
            f"use a name of at most {names.LONGEST_CLUSTER_NAME}: the hosts' names of each other do not exist with a longer one"
        )
        yield Diagnosis("error", f"{name} has {len(name)} characters", fix, KUBERAY_ISSUE.format(2923))


def needed_objects(snapshot: ClusterSnapshot) -> Iterator[Diagnosis]:
    """What the pods refer to, and cannot start without."""
    spec = snapshot.spec
    wanted = [("ServiceAccount", names.serving_account(spec.name))]
    if spec.slices.network == "dranet":
        wanted.append(("ResourceClaimTemplate", names.claim_template(spec.name)))
    wanted += [("Secret", name) for name in spec.secrets]
    for kind, name in wanted:
        try:
            live = snapshot.api.get(kind, name, spec.namespace)
        except ForbiddenError:
            yield Diagnosis("unknown", "you may not read it", check=f"{kind}/{name}")
            continue
        if live is None:
            fix = "make it by hand (docs/gke.md)" if kind == "Secret" else "scripts/cluster.py apply, by someone who may"
            yield Diagnosis("error", "is not there, and pods refer to it", fix, check=f"{kind}/{name}")


def quotas(snapshot: ClusterSnapshot) -> Iterator[Diagnosis]:
    """A quota of the namespace that the hosts do not fit in."""
    spec = snapshot.spec
    wanted = spec.slices.shape.chips * spec.slices.count
    key = f"requests.{names.TPU_RESOURCE}"
    for quota in snapshot.api.objects("ResourceQuota", spec.namespace):
        limit = quota["spec"].get("hard", {}).get(key)
        if limit is not None and parse_quantity(limit) < wanted:
            evidence = f"ResourceQuota/{quota['metadata']['name']} allows {limit} {names.TPU_RESOURCE}, the spec needs {wanted}"
            yield Diagnosis("error", evidence, "raise it, or ask for fewer slices")


def ray_version(snapshot: ClusterSnapshot) -> Iterator[Diagnosis]:
    """A Ray version in the RayCluster that is not the one that this project is pinned to."""
    version = ((snapshot.state.cluster or {}).get("spec") or {}).get("rayVersion")
    if version not in (None, pinned("ray")):
        evidence = f"the RayCluster has rayVersion {version}, this project is made for {pinned('ray')}"
        yield Diagnosis("error", evidence, "scripts/cluster.py apply, with an image of this version")


def image_versions(snapshot: ClusterSnapshot) -> Iterator[Diagnosis]:
    """What the image itself reports on its Ray and vLLM, from the first container of the head's pod."""
    statuses = (snapshot.state.head or {}).get("status", {}).get("initContainerStatuses", [])
    checked: Manifest = next((status for status in statuses if status["name"] == names.VERSION_CHECK), {})
    check = ended(checked)
    versions = f"Ray {pinned('ray')} and vLLM {pinned('vllm-tpu')}"
    if check and check["exitCode"] == 0:
        yield Diagnosis("ok", f"{checked['image']} has {versions}")
    elif check:
        evidence = f"{checked['image']}: {check.get('message') or 'it is no image of this project'}".replace("\n", " / ")
        yield Diagnosis("error", evidence, f"build one with {versions} (scripts/gke.py up) and apply")


def lone_head(snapshot: ClusterSnapshot) -> Iterator[Diagnosis]:
    """A head without Redis, with which every replica ends when it is lost."""
    if not snapshot.spec.fault_tolerance and snapshot.spec.kind == "RayCluster":
        evidence = "fault_tolerance is not set: with the head's pod the hosts restart too, and the model is loaded anew"
        fix = "set fault_tolerance.address, or live with half an hour without the model after such a loss"
        yield Diagnosis("warning", evidence, fix, GCS_FAULT_TOLERANCE)


def rights(snapshot: ClusterSnapshot) -> Iterator[Diagnosis]:
    """`kubectl auth can-i`, for everything that the commands do."""
    spec, missing = snapshot.spec, []
    for commands, wanted in _RIGHTS.items():
        for verb, kind, subresource in wanted:
            name = kind.format(main=spec.kind)
            if not snapshot.api.may(verb, name, spec.namespace, subresource):
                missing.append(f"{verb} {name}{f'/{subresource}' if subresource else ''} (for {commands})")
    if missing:
        fix = f"have an administrator add you to `users` in the spec and apply it (namespace {spec.namespace})"
        yield Diagnosis("error", f"you may not {', '.join(missing)}", fix)
    else:
        yield Diagnosis("ok", "you may run every command")

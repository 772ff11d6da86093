"""Why a deployment is not ready: which pod waits for what, in plain words, with what to do. Pure: from a `State` to text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kuberay import names
from kuberay.kinds import Manifest
from kuberay.state import State, condition, events_about, index_of_pod, is_ready, slice_of_pod

_OF_EVERY_POD_WITH_CLAIMS = "no new claims to deallocate"  # the scheduler says it whatever the reason is
_WAITS_FOR_HEAD = "wait-gcs-ready"  # the init container that the operator gives the hosts
_LAST_WORDS = "scripts/cluster.py logs shows its last words"


@dataclass(frozen=True)
class Reason:
    """`who` waits, `what` for, and what to do about it (None: nothing but wait). `hopeless`: no waiting will help."""

    who: str
    what: str
    advice: str | None = None
    hopeless: bool = False

    def __str__(self) -> str:
        return f"{self.who}: {self.what}" + (f" ({self.advice})" if self.advice else "")


def reasons(state: State) -> list[Reason]:
    """What is still to come, the cluster first, then the head, then the hosts; empty when all is ready."""
    if state.cluster is None:
        return _invalid(state.events) or [Reason("RayCluster", "is not there yet", "scripts/cluster.py apply makes it")]
    if state.suspended:
        return [Reason("RayCluster", "is parked", "scripts/cluster.py unpark brings it back")]
    found = [] if state.seen_by_operator() else _unseen(state)
    if state.head is None or len(state.hosts) < state.wanted_hosts:
        found += _no_pods(events_about(state.events, state.cluster))
    found += [Reason("head", "its pod is not made yet")] if state.head is None else _pod(state, state.head)
    if len(state.hosts) < state.wanted_hosts:
        found.append(Reason("hosts", f"{len(state.hosts)} of {state.wanted_hosts} pods are made"))
    return found + [one for pod in state.hosts for one in _pod(state, pod)] + staging_reasons(state)


def staging_reasons(state: State) -> list[Reason]:
    """What the staging of the weights waits for; empty when it is done."""
    if state.staged():
        return []
    assert state.staging
    name = state.staging["metadata"]["name"]
    see = f"kubectl -n {state.staging['metadata']['namespace']} logs job/{name}"
    if condition(state.staging, "Failed") == "True":
        advice = f"`{see}` has its last words; delete the job and apply again, it goes on where it stopped"
        return [Reason("weights", "could not be staged", advice, hopeless=True)]
    for pod in state.staging_pods:
        if pod["status"].get("phase") == "Pending":
            return _pod(state, pod, "weights")
    return [Reason("weights", "are being staged", see)]


def pod_name(pod: Manifest) -> str:
    """For people: `head`, or `host 2 of tpu-x7k2p`."""
    if pod["metadata"]["labels"].get(names.NODE_TYPE_LABEL) == "head":
        return "head"
    return f"host {index_of_pod(pod)} of {slice_of_pod(pod)}" if slice_of_pod(pod) else str(pod["metadata"]["name"])


def _pod(state: State, pod: Manifest, who: str | None = None) -> list[Reason]:
    if is_ready(pod):
        return []
    who, events = who or pod_name(pod), events_about(state.events, pod)
    if "deletionTimestamp" in pod["metadata"]:
        return [Reason(who, "is ending")]
    phase = pod.get("status", {}).get("phase")
    if phase in ("Failed", "Succeeded"):
        return [Reason(who, f"has ended ({_how_it_ended(pod)})", "KubeRay replaces all hosts of its slice")]
    if not pod["spec"].get("nodeName"):
        return [_unscheduled(who, pod, events)]
    return [_starting(who, pod, events)]


def _unscheduled(who: str, pod: Manifest, events: Sequence[Manifest]) -> Reason:
    said = next((one["message"] for one in pod["status"].get("conditions", []) if one["type"] == "PodScheduled"), None)
    scale_up = next(
        (one["message"] for one in reversed(events) if one["reason"] in ("FailedScaleUp", "NotTriggerScaleUp")), None
    )
    text = " ".join(filter(None, (said, scale_up)))
    claim = next((one["message"] for one in reversed(events) if one["reason"] == "FailedResourceClaimCreation"), None)
    about = text.lower().replace(_OF_EVERY_POD_WITH_CLAIMS, "")
    if claim or "claim" in about or "device class" in about:
        return Reason(
            who, f"waits for its network claim: {claim or text}", "the claim template or DRANET is missing: see doctor"
        )
    if "quota" in text.lower():
        return Reason(
            who, f"Google Cloud's quota is used up: {text}", "ask for more TPU quota in the region, or use a reservation"
        )
    if not text:
        return Reason(who, "waits for a node: the scheduler has not looked at it")
    advice = "no node fits: `scripts/gke.py status` shows the node pool, doctor the labels"
    return Reason(who, f"waits for a node: {text}", advice)


def _starting(who: str, pod: Manifest, events: Sequence[Manifest]) -> Reason:
    status = pod.get("status", {})
    for one in (*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])):
        waiting = one.get("state", {}).get("waiting") or {}
        if waiting.get("reason") in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName"):
            told = waiting.get("message") or waiting["reason"]
            return Reason(
                who, f"its image cannot be pulled: {told}", "check `image` in the spec, and that the nodes may read it"
            )
        if waiting.get("reason") in ("CreateContainerConfigError", "CreateContainerError"):
            return Reason(who, f"{waiting.get('message')}", "make the secret or volume that it names")
        if waiting.get("reason") == "CrashLoopBackOff":
            return Reason(who, f"ends again and again ({_how_it_ended(pod)})", _LAST_WORDS)
        if _has_failed(one):
            return Reason(who, f"ended, and is started again ({_how_it_ended(pod)})", _LAST_WORDS)
    mount = next((one["message"] for one in reversed(events) if one["reason"] in ("FailedMount", "FailedAttachVolume")), None)
    if mount:
        return Reason(who, f"a volume cannot be mounted: {mount}")
    before = [one["name"] for one in status.get("initContainerStatuses", []) if "running" in one.get("state", {})]
    if before:
        return Reason(who, "waits for the head" if _WAITS_FOR_HEAD in before else f"its init container {before[0]} runs")
    if condition(pod, "ContainersReady") is None or not status.get("containerStatuses"):
        return Reason(who, "its containers are being made")
    return Reason(who, "runs, and does not answer its probe yet")


def _has_failed(status: Manifest) -> bool:
    """Whether a container's last run ended with an error and it is not ready again since."""
    ended = status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated") or {}
    return bool(ended.get("exitCode")) and not status.get("ready")


def _how_it_ended(pod: Manifest) -> str:
    status = pod.get("status", {})
    ended = [
        last
        for one in (*status.get("initContainerStatuses", []), *status.get("containerStatuses", []))
        if (last := one.get("state", {}).get("terminated") or one.get("lastState", {}).get("terminated"))
    ]
    if not ended:
        return str(status.get("reason") or status.get("message") or "no reason given")
    bad = next((one for one in ended if one.get("exitCode")), ended[-1])
    said = f": {' / '.join(bad['message'].splitlines())}" if bad.get("message") else ""
    return f"{bad.get('reason', 'ended')}, exit code {bad.get('exitCode')}{said}"


def _unseen(state: State) -> list[Reason]:
    assert state.cluster
    unseen = Reason("RayCluster", "KubeRay has not looked at it as it is now", "doctor says whether KubeRay runs")
    return _invalid(events_about(state.events, state.cluster)) or [unseen]


def _invalid(events: Sequence[Manifest]) -> list[Reason]:
    """KubeRay says in an event, and nowhere else, that it does not take a spec, and then never looks at it again."""
    said = {one["reason"]: one["message"] for one in events if one["reason"].startswith("Invalid")}
    advice = "change the spec and apply it"
    return [Reason("RayCluster", f"KubeRay refuses it: {message}", advice, hopeless=True) for message in said.values()]


def _no_pods(events: Sequence[Manifest]) -> list[Reason]:
    """Of each kind the latest of what KubeRay could not do."""
    said = {one["reason"]: one["message"] for one in events if re.match(r"FailedToCreate\w*Pod", one["reason"])}
    return [Reason("RayCluster", *_no_pod(message)) for message in said.values()]


def _no_pod(message: str) -> tuple[str, str]:
    if "exceeded quota" in message:
        return f"the namespace's quota does not let it make a pod: {message}", "raise the ResourceQuota, or ask for less"
    if "webhook" in message:
        return f"a webhook refuses its pods, or does not answer: {message}", "see doctor"
    if "PodSecurity" in message:
        return f"the namespace's security level refuses its pods: {message}", "see slices.run_as_root in the spec"
    return f"its pods cannot be made: {message}", "see doctor"

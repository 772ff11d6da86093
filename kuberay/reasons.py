"""Why a deployment is not ready: which pod waits for what, in plain words, with what to do. Pure: from a `State` to text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kuberay import names
from kuberay.objects import Manifest, parse_quantity
from kuberay.state import State, condition, ended, events_about, index_of_pod, is_ready, slice_of_pod

_OF_EVERY_POD_WITH_CLAIMS = "no new claims to deallocate"  # of every such pod, whatever the reason is
_WAITS_FOR_HEAD = "wait-gcs-ready"  # the init container that the operator gives the hosts
_SEEN_WITHIN_S = 30
_START_KUBERAY = (
    "`kubectl get pods -A -l app.kubernetes.io/name=kuberay-operator` shows it; on GKE it is the add-on RayOperator"
)
_SEE_LOGS = "scripts/cluster.py logs shows its last words"


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
        if queue := (state.cluster["metadata"].get("labels") or {}).get(names.QUEUE_LABEL):
            what = f"waits in the queue {queue} until Kueue admits it"
            return [Reason("RayCluster", what, "`kubectl get workloads` says why")]
        return [Reason("RayCluster", "is parked", "scripts/cluster.py unpark brings it back")]
    waiting = [] if state.seen_by_operator() else _unseen(state)
    if state.head is None or len(state.hosts) < state.wanted_hosts:
        waiting += _no_pods(events_about(state.events, state.cluster))
    waiting += [Reason("head", "its pod is not made yet")] if state.head is None else _pod(state, state.head)
    if len(state.hosts) < state.wanted_hosts:
        waiting.append(Reason("hosts", f"{len(state.hosts)} of {state.wanted_hosts} pods are made"))
    return waiting + [reason for pod in state.hosts for reason in _pod(state, pod)] + staging_reasons(state)


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
    """A name for people: `head`, or `host 2 of tpu-x7k2p`."""
    if pod["metadata"]["labels"].get(names.NODE_TYPE_LABEL) == "head":
        return "head"
    return f"host {index_of_pod(pod)} of {slice_of_pod(pod)}" if slice_of_pod(pod) else str(pod["metadata"]["name"])


def _pod(state: State, pod: Manifest, who: str | None = None) -> list[Reason]:
    if is_ready(pod):
        return []
    who, events = who or pod_name(pod), events_about(state.events, pod)
    if "deletionTimestamp" in pod["metadata"]:
        return [Reason(who, "is ending")]
    if pod.get("status", {}).get("phase") in ("Failed", "Succeeded"):
        return [Reason(who, f"has ended ({_how_it_ended(pod)})", "KubeRay replaces all hosts of its slice")]
    if not pod["spec"].get("nodeName"):
        return [Reason(who, *_unscheduled(state, pod, events))]
    return [Reason(who, *_starting(pod, events))]


def _holders(state: State, pod: Manifest) -> list[str]:
    """Pods that have a place on a node and do nothing with it."""
    others = [other for other in (*state.pods, *state.staging_pods, *state.others) if other is not pod]
    idle = [other for other in others if other["spec"].get("nodeName") and other["status"].get("phase") == "Pending"]
    return [f"{each['metadata']['name']} holds {_cpu(each)} CPU of a node, and {_starting(each, ())[0]}" for each in idle]


def _cpu(pod: Manifest) -> str:
    asked = [container.get("resources", {}).get("requests", {}).get("cpu", "0") for container in pod["spec"]["containers"]]
    return f"{sum(map(parse_quantity, asked)):g}"


def _unscheduled(state: State, pod: Manifest, events: Sequence[Manifest]) -> tuple[str, str | None]:
    conditions = pod["status"].get("conditions", [])
    scheduler = next((entry["message"] for entry in conditions if entry["type"] == "PodScheduled"), None)
    text = " ".join(filter(None, (scheduler, _latest(events, "FailedScaleUp", "NotTriggerScaleUp"))))
    claim = _latest(events, "FailedResourceClaimCreation")
    about = text.lower().replace(_OF_EVERY_POD_WITH_CLAIMS, "")
    if claim or "claim" in about or "device class" in about:
        return f"waits for its network claim: {claim or text}", "the claim template or DRANET is missing: see doctor"
    if "quota" in about:
        return f"Google Cloud's quota is used up: {text}", "ask for more TPU quota in the region, or use a reservation"
    if not text:
        return "waits for a node: the scheduler has not seen it yet", None
    if "insufficient" in about and (holders := _holders(state, pod)):
        return f"waits for a node: {text}", f"{'; '.join(holders)}: `kubectl delete` what is not needed any more"
    return f"waits for a node: {text}", "no node fits: `scripts/gke.py status` shows the node pool, doctor the labels"


def _starting(pod: Manifest, events: Sequence[Manifest]) -> tuple[str, str | None]:
    status = pod.get("status", {})
    for container in _containers(pod):
        waiting = container.get("state", {}).get("waiting") or {}
        match waiting.get("reason"):
            case "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" as reason:
                what = f"its image cannot be pulled: {waiting.get('message') or reason}"
                return what, "check `image` in the spec, and that the nodes may read it"
            case "CreateContainerConfigError" | "CreateContainerError":
                return f"{waiting.get('message')}", "make the secret or volume that it names"
            case "CrashLoopBackOff":
                return f"ends again and again ({_how_it_ended(pod)})", _SEE_LOGS
        if _has_failed(container):
            return f"ended, and is started again ({_how_it_ended(pod)})", _SEE_LOGS
    # once it has its address, its volumes are mounted, and what an event says was true before
    if condition(pod, "PodReadyToStartContainers") != "True" and (
        mount := _latest(events, "FailedMount", "FailedAttachVolume")
    ):
        return f"a volume cannot be mounted: {mount}", None
    running = [init["name"] for init in status.get("initContainerStatuses", []) if "running" in init.get("state", {})]
    if running:
        return ("waits for the head" if _WAITS_FOR_HEAD in running else f"its init container {running[0]} runs"), None
    if condition(pod, "ContainersReady") is None or not status.get("containerStatuses"):
        return "its containers are being made", None
    return "runs, and does not answer its probe yet", None


def _containers(pod: Manifest) -> list[Manifest]:
    """Statuses of the pod's containers, the init containers first."""
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _latest(events: Sequence[Manifest], *wanted: str) -> str | None:
    """The newest message with one of these reasons."""
    return next((event["message"] for event in reversed(events) if event["reason"] in wanted), None)


def _has_failed(status: Manifest) -> bool:
    """Whether a container's last run ended with an error and it is not ready again since."""
    return bool((ended(status) or {}).get("exitCode")) and not status.get("ready")


def _how_it_ended(pod: Manifest) -> str:
    status = pod.get("status", {})
    ends = [end for container in _containers(pod) if (end := ended(container))]
    if not ends:
        return str(status.get("reason") or status.get("message") or "no reason given")
    bad = next((end for end in ends if end.get("exitCode")), ends[-1])
    message = f": {' / '.join(bad['message'].splitlines())}" if bad.get("message") else ""
    return f"{bad.get('reason', 'ended')}, exit code {bad.get('exitCode')}{message}"


def _unseen(state: State) -> list[Reason]:
    assert state.cluster
    if state.unseen_s > _SEEN_WITHIN_S:
        what, advice = f"KubeRay has not seen it for {state.unseen_s:.0f} s: it does not run", _START_KUBERAY
    else:
        what, advice = "KubeRay has not seen it as it is now", None
    unseen = Reason("RayCluster", what, advice)
    return _invalid(events_about(state.events, state.cluster)) or [unseen]


def _invalid(events: Sequence[Manifest]) -> list[Reason]:
    """Specs that KubeRay refuses: it reports that in an event, and nowhere else, and never tries again."""
    messages = {event["reason"]: event["message"] for event in events if event["reason"].startswith("Invalid")}
    advice = "change the spec and apply it"
    return [Reason("RayCluster", f"KubeRay refuses it: {message}", advice, hopeless=True) for message in messages.values()]


def _no_pods(events: Sequence[Manifest]) -> list[Reason]:
    """What KubeRay could not do, the latest of each kind."""
    messages = {event["reason"]: event["message"] for event in events if re.match(r"FailedToCreate\w*Pod", event["reason"])}
    return [Reason("RayCluster", *_no_pod(message)) for message in messages.values()]


def _no_pod(message: str) -> tuple[str, str]:
    if "exceeded quota" in message:
        return f"the namespace's quota does not let it make a pod: {message}", "raise the ResourceQuota, or ask for less"
    if "webhook" in message:
        return f"a webhook refuses its pods, or does not answer: {message}", "see doctor"
    if "PodSecurity" in message:
        return f"the namespace's security level refuses its pods: {message}", "see slices.run_as_root in the spec"
    return f"its pods cannot be made: {message}", "see doctor"

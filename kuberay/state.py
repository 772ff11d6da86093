"""What is there of a deployment now: its RayCluster, its pods and the warnings about them. Reads only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from kuberay import names
from kuberay.api import Api
from kuberay.manifests.staging import staging_job
from kuberay.objects import Manifest
from kuberay.spec import Spec


@dataclass(frozen=True)
class State:
    """`cluster` is None where there is none (yet), or where its RayService has not made it."""

    cluster: Manifest | None
    service: Manifest | None
    pods: Sequence[Manifest]
    events: Sequence[Manifest]
    """Warnings about the cluster, its service and its pods, oldest first."""
    staging: Manifest | None = None
    """The job that stages the weights; None where it was never made, or was removed after it had done its work."""
    staging_pods: Sequence[Manifest] = ()
    others: Sequence[Manifest] = ()
    """Other pods of the namespace, such as those of an older staging job."""
    unseen_s: float = 0
    """Seconds since the cluster was last changed by somebody else than KubeRay."""

    @property
    def head(self) -> Manifest | None:
        """The head's pod; of several (one ends, one begins) the newest."""
        heads = [pod for pod in self.pods if pod["metadata"]["labels"].get(names.NODE_TYPE_LABEL) == "head"]
        return max(heads, key=_created, default=None)

    @property
    def hosts(self) -> list[Manifest]:
        """The TPU hosts' pods, by slice and host index."""
        hosts = [pod for pod in self.pods if pod["metadata"]["labels"].get(names.GROUP_LABEL) == names.TPU_GROUP]
        return sorted(hosts, key=lambda pod: (slice_of_pod(pod), index_of_pod(pod), pod["metadata"]["name"]))

    @property
    def wanted_hosts(self) -> int:
        """Hosts of all slices, by the cluster's own spec."""
        groups = self.cluster["spec"].get("workerGroupSpecs") or [] if self.cluster else []
        return sum(group.get("replicas", 0) * group.get("numOfHosts", 1) for group in groups)

    @property
    def suspended(self) -> bool:
        return bool(self.cluster and self.cluster["spec"].get("suspend"))

    def staged(self) -> bool:
        """Whether nothing is left to stage."""
        return self.staging is None or condition(self.staging, "Complete") == "True"

    def seen_by_operator(self) -> bool:
        """True when KubeRay has seen the cluster as it is now."""
        if self.cluster is None:
            return False
        return (self.cluster.get("status") or {}).get("observedGeneration") == self.cluster["metadata"]["generation"]

    def ready(self) -> bool:
        """Whether the head and every wanted host is ready; KubeRay's `status.state` is whether they once were (#2188)."""
        if self.suspended or not self.seen_by_operator():
            return False
        hosts = [pod for pod in self.hosts if is_ready(pod)]
        return self.head is not None and is_ready(self.head) and len(hosts) == len(self.hosts) == self.wanted_hosts


def read_state(api: Api, spec: Spec) -> State:
    """The deployment's state now. Raises `ApiError` as `Api` does."""
    service, cluster = None, None
    if spec.kind == "RayService":
        service = api.get("RayService", spec.name, spec.namespace)
        clusters = api.objects("RayCluster", spec.namespace, f"{names.ORIGINATOR_LABEL}={spec.name}")
        cluster = max(clusters, key=_created, default=None)
    else:
        cluster = api.get("RayCluster", spec.name, spec.namespace)
    job = api.get("Job", staging_job(spec)["metadata"]["name"], spec.namespace)
    there = api.objects("Pod", spec.namespace)
    pods = [pod for pod in there if _has_labels(pod, names.ray_pods(spec.name))]
    job_pods = [pod for pod in there if job and _has_labels(pod, {names.JOB_LABEL: job["metadata"]["name"]})]
    others = [pod for pod in there if pod not in pods and pod not in job_pods]
    about = {owner["metadata"]["uid"] for owner in (service, cluster, *pods, *job_pods) if owner}
    events = [event for event in api.objects("Event", spec.namespace, fields="type=Warning") if _uid(event) in about]
    events.sort(key=_when)
    return State(cluster, service, pods, events, job, job_pods, others, _unseen_s(cluster) if cluster else 0)


def is_ready(pod: Manifest) -> bool:
    """Whether the pod's containers answer their probes, and it is not ending."""
    return condition(pod, "Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def condition(manifest: Manifest, kind: str) -> str | None:
    """`True`, `False` or `Unknown` of a condition in an object's status; None where it is not there."""
    conditions = (manifest.get("status") or {}).get("conditions") or []
    return next((entry["status"] for entry in conditions if entry["type"] == kind), None)


def ended(container: Manifest) -> Manifest | None:
    """How a container ended, by its status: now, or before it was started again; None where it never did."""
    last: Manifest | None = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated")
    return last


def slice_of_pod(pod: Manifest) -> str:
    """The slice (KubeRay: worker group replica) of a host's pod; empty where KubeRay before 1.6 has made it."""
    return str(pod["metadata"]["labels"].get(names.SLICE_LABEL, ""))


def index_of_pod(pod: Manifest) -> int:
    """The host's number in its slice; -1 where KubeRay before 1.6 has made it."""
    return int(pod["metadata"]["labels"].get(names.HOST_LABEL, -1))


def events_about(events: Iterable[Manifest], manifest: Manifest) -> list[Manifest]:
    """The events about one object, oldest first."""
    return [event for event in events if _uid(event) == manifest["metadata"]["uid"]]


def _has_labels(manifest: Manifest, labels: dict[str, str]) -> bool:
    return labels.items() <= (manifest["metadata"].get("labels") or {}).items()


def _unseen_s(cluster: Manifest) -> float:
    fields = cluster["metadata"].get("managedFields") or []
    times = [entry["time"] for entry in fields if "time" in entry and entry.get("subresource") != "status"]
    changed = datetime.fromisoformat(max([_created(cluster), *times]))
    return (datetime.now(UTC) - changed).total_seconds()


def _created(manifest: Manifest) -> str:
    return str(manifest["metadata"]["creationTimestamp"])


def _uid(event: Manifest) -> str:
    return str(event["involvedObject"].get("uid"))


def _when(event: Manifest) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or _created(event))

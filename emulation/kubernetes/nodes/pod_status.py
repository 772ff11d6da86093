"""What a kubelet writes into a pod's status, from the states of its containers: phase and conditions as of Kubernetes 1.35."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from emulation.kubernetes.nodes.api import Json

_OWN_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady")


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class ContainerState:
    """One container as its pod's status shows it; `state` holds one of the keys waiting, running, terminated."""

    name: str
    image: str
    state: Json
    ready: bool = False
    restarts: int = 0
    last: Json = field(default_factory=dict)

    def wait(self, reason: str, message: str = "") -> None:
        self.state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        self.ready = False

    def run(self) -> None:
        self.state = {"running": {"startedAt": now()}}

    def terminate(self, exit_code: int, reason: str, message: str = "") -> None:
        started = self.state.get("running", {}).get("startedAt", now())
        ended = {"exitCode": exit_code, "reason": reason, "startedAt": started, "finishedAt": now()}
        ended |= {"message": message} if message else {}
        self.state = {"terminated": {**ended, "containerID": f"emulated://{self.name}-{self.restarts}"}}
        self.ready = False

    def restart(self) -> None:
        self.last, self.restarts = self.state, self.restarts + 1

    @property
    def is_running(self) -> bool:
        return "running" in self.state

    @property
    def exit_code(self) -> int | None:
        return self.state.get("terminated", {}).get("exitCode")

    @property
    def succeeded(self) -> bool:
        return self.exit_code == 0

    def status(self) -> Json:
        return {
            "name": self.name,
            "image": self.image,
            "imageID": "" if "waiting" in self.state and not self.restarts else f"emulated://{self.image}",
            "containerID": f"emulated://{self.name}-{self.restarts}" if self.is_running else "",
            "ready": self.ready,
            "started": self.is_running,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self.last,
        }


@dataclass
class PodState:
    """A pod as its kubelet knows it."""

    restart_policy: str
    inits: list[ContainerState]
    mains: list[ContainerState]
    node_ip: str
    ip: str | None = None
    start_time: str = field(default_factory=lambda: now())
    _since: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Status and time of the last transition of each condition."""

    def phase(self) -> str:
        """The phase by the rules of the kubelet's `getPhase`."""
        if any(not init.succeeded for init in self.inits):
            failed = any(init.exit_code not in (None, 0) for init in self.inits)
            return "Failed" if failed and self.restart_policy == "Never" else "Pending"
        if any("waiting" in main.state and not main.restarts for main in self.mains):
            return "Pending"
        if any(main.exit_code is None for main in self.mains) or self.restart_policy == "Always":
            return "Running"
        if all(main.succeeded for main in self.mains):
            return "Succeeded"
        return "Failed" if self.restart_policy == "Never" else "Running"

    def status(self, before: Json) -> Json:
        """The fields of the status that are the kubelet's, as a merge patch to `before`, the status that the pod has."""
        others = [c for c in before.get("conditions", []) if c["type"] not in _OWN_CONDITIONS]
        addresses = {"podIP": self.ip, "podIPs": [{"ip": self.ip}]} if self.ip else {}
        return {
            "phase": self.phase(),
            "hostIP": self.node_ip,
            "hostIPs": [{"ip": self.node_ip}],
            **addresses,
            "startTime": self.start_time,
            "conditions": [*others, *(self._stamped(condition) for condition in self._conditions())],
            "initContainerStatuses": [init.status() for init in self.inits] or None,
            "containerStatuses": [main.status() for main in self.mains],
        }

    def _stamped(self, condition: Json) -> Json:
        kind, status = condition["type"], condition["status"]
        if self._since.get(kind, ("", ""))[0] != status:
            self._since[kind] = (status, now())
        return {**condition, "lastTransitionTime": self._since[kind][1]}

    def _conditions(self) -> list[Json]:
        initialized = _condition("Initialized", "ContainersNotInitialized", "incomplete", _names(self.inits, "succeeded"))
        if self.phase() in ("Failed", "Succeeded"):
            done = {"status": "False", "reason": "PodFailed" if self.phase() == "Failed" else "PodCompleted"}
            ready = [{"type": kind, **done} for kind in ("Ready", "ContainersReady")]
        else:
            unready = _names(self.mains, "ready")
            ready = [_condition(kind, "ContainersNotReady", "unready", unready) for kind in ("Ready", "ContainersReady")]
        sandbox = {"type": "PodReadyToStartContainers", "status": "True" if self.ip else "False"}
        return [sandbox, initialized, *ready]


def _names(containers: Sequence[ContainerState], lacking: str) -> list[str]:
    return [container.name for container in containers if not getattr(container, lacking)]


def _condition(kind: str, reason: str, word: str, names: list[str]) -> Json:
    if not names:
        return {"type": kind, "status": "True"}
    message = f"containers with {word} status: [{' '.join(names)}]"
    return {"type": kind, "status": "False", "reason": reason, "message": message}


def warning(pod: Json, reason: str, message: str, container: str | None) -> Json:
    """An event of the kubelet about a pod, or about one of its containers."""
    meta = pod["metadata"]
    about = {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]}
    return {
        "metadata": {"generateName": f"{meta['name']}.", "namespace": meta["namespace"]},
        "involvedObject": {**about, **({"fieldPath": f"spec.containers{{{container}}}"} if container else {})},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "source": {"component": "kubelet", "host": pod["spec"]["nodeName"]},
        "firstTimestamp": now(),
        "lastTimestamp": now(),
        "count": 1,
    }

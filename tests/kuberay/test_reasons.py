"""What a pod that is not ready waits for: each moment between two starts of a container that fails."""

from typing import Any

import pytest

from kuberay import names
from kuberay.objects import Manifest
from kuberay.reasons import reasons
from kuberay.state import State

_ENDED = {"terminated": {"exitCode": 1, "reason": "Error", "message": "error: ray is 2.55.0\n"}}
_WAITING = {"state": {"waiting": {"reason": "PodInitializing"}}}


def reason_of(init: dict[str, Any], main: dict[str, Any], *events: Manifest, sandbox: str = "True") -> str:
    pod: Manifest = {
        "metadata": {"uid": "1", "labels": {names.NODE_TYPE_LABEL: "head"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "a-node"},
        "status": {
            "phase": "Pending",
            "conditions": [
                {"type": "ContainersReady", "status": "False"},
                {"type": "PodReadyToStartContainers", "status": sandbox},
            ],
            "initContainerStatuses": [{"ready": False, **init}],
            "containerStatuses": [{"name": "ray-head", "ready": False, **main}],
        },
    }
    cluster = {"metadata": {"uid": "0", "generation": 1}, "spec": {}, "status": {"observedGeneration": 1}}
    (reason,) = reasons(State(cluster, None, (pod,), events))
    return str(reason)


@pytest.mark.parametrize(
    "state",
    [
        {"state": _ENDED},
        {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": _ENDED},
        {"state": {"running": {}}, "lastState": _ENDED},
    ],
)
def test_an_init_container_that_fails(state: dict[str, Any]) -> None:
    reason = reason_of({"name": names.VERSION_CHECK, **state}, _WAITING)
    assert "exit code 1: error: ray is 2.55.0" in reason
    assert reason.endswith("(scripts/cluster.py logs shows its last words)")


@pytest.mark.parametrize(
    ("name", "reason"),
    [(names.VERSION_CHECK, "head: its init container versions runs"), ("wait-gcs-ready", "head: waits for the head")],
)
def test_an_init_container_that_runs(name: str, reason: str) -> None:
    assert reason_of({"name": name, "state": {"running": {}}}, _WAITING) == reason


def test_a_container_that_was_started_again() -> None:
    done = {"name": names.VERSION_CHECK, "ready": True, "state": {"terminated": {"exitCode": 0}}}
    assert reason_of(done, {"state": {"running": {}}, "lastState": _ENDED}).startswith(
        "head: ended, and is started again (Error"
    )
    assert reason_of(done, {"state": {"running": {}}}) == "head: runs, and does not answer its probe yet"


@pytest.mark.parametrize(("sandbox", "blamed"), [("False", True), ("True", False)])
def test_a_volume_that_could_not_be_mounted_is_blamed_only_as_long_as_it_is_not(sandbox: str, blamed: bool) -> None:
    event: Manifest = {"reason": "FailedMount", "message": 'secret "api-keys" not found', "involvedObject": {"uid": "1"}}
    starting = {"state": {"waiting": {"reason": "PodInitializing"}}}
    reason = reason_of({"name": "versions", **starting}, _WAITING, event, sandbox=sandbox)
    assert ("cannot be mounted" in reason) == blamed


def test_who_holds_the_room_on_a_node_is_named() -> None:
    def pod(name: str, node: dict[str, str], **status: Any) -> Manifest:
        containers = [{"name": "x", "resources": {"requests": {"cpu": "4"}}}]
        metadata = {"uid": name, "name": name, "labels": {names.NODE_TYPE_LABEL: "head"}, "creationTimestamp": "2026-01-01"}
        return {"metadata": metadata, "spec": {"containers": containers, **node}, "status": {"phase": "Pending", **status}}

    full = [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available: 1 Insufficient cpu."}]
    head = pod("gemma-head", {}, conditions=full)
    stuck = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}
    job = pod("gemma-stage-old", {"nodeName": "a-node"}, containerStatuses=[stuck])
    cluster = {"metadata": {"uid": "0", "generation": 1}, "spec": {}, "status": {"observedGeneration": 1}}
    (reason,) = reasons(State(cluster, None, (head,), (), others=(job,)))
    assert "gemma-stage-old holds 4 CPU of a node, and its image cannot be pulled: not found" in str(reason)


def test_a_cluster_in_a_queue_is_not_called_parked() -> None:
    cluster: Manifest = {"metadata": {"uid": "0", "generation": 1}, "spec": {"suspend": True}}
    assert "is parked" in str(reasons(State(cluster, None, (), ()))[0])
    cluster["metadata"]["labels"] = {names.QUEUE_LABEL: "tpu"}
    assert "waits in the queue tpu until Kueue admits it" in str(reasons(State(cluster, None, (), ()))[0])

"""What a pod that is not ready waits for: each moment between two starts of a container that fails."""

from typing import Any

import pytest

from kuberay import names
from kuberay.objects import Manifest
from kuberay.reasons import reasons
from kuberay.state import State

_ENDED = {"terminated": {"exitCode": 1, "reason": "Error", "message": "error: ray is 2.55.0\n"}}
_WAITING = {"state": {"waiting": {"reason": "PodInitializing"}}}


def reason_of(init: dict[str, Any], main: dict[str, Any]) -> str:
    pod: Manifest = {
        "metadata": {"uid": "1", "labels": {names.NODE_TYPE_LABEL: "head"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "a-node"},
        "status": {
            "phase": "Pending",
            "conditions": [{"type": "ContainersReady", "status": "False"}],
            "initContainerStatuses": [{"ready": False, **init}],
            "containerStatuses": [{"name": "ray-head", "ready": False, **main}],
        },
    }
    cluster = {"metadata": {"uid": "0", "generation": 1}, "spec": {}, "status": {"observedGeneration": 1}}
    (reason,) = reasons(State(cluster, None, (pod,), ()))
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

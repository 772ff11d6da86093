"""The lock of a cluster's deploys, held for as long as it takes; against a real API server: tests/kuberay/test_faults.py."""

import contextlib
import threading
from datetime import timedelta

import pytest

from apps.common.errors import OperationError
from emulation.kubernetes.nodes.api import wait_for
from kuberay.objects import Manifest
from kuberay.rollout import lock
from tests.kuberay.rollout.config_maps import ConfigMaps

RECORD: Manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "gemma-serve-config", "namespace": "gemma"}}


def annotations(maps: ConfigMaps) -> dict[str, str]:
    return dict(maps.objects["gemma-serve-config"]["metadata"].get("annotations", {}))


def make_void(maps: ConfigMaps) -> None:
    """Make it that of a holder of whom nothing was heard for long."""
    maps.patch("", "gemma-serve-config", "", {"metadata": {"annotations": {"ray-tpu-serve/deploying-until": "2026-01-01T00"}}})


def test_nobody_else_is_inside_and_afterwards_it_is_free() -> None:
    maps = ConfigMaps()
    refused = pytest.raises(OperationError, match="somebody else has been deploying")
    with lock.locked(maps.api, RECORD, 1), refused, lock.locked(maps.api, RECORD, 0):
        pytest.fail("two are inside")
    assert annotations(maps) == {}


def test_a_lock_is_renewed_while_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_RENEWAL_S", 0.01)
    maps = ConfigMaps()
    with lock.locked(maps.api, RECORD, 1):
        make_void(maps)  # as after an hour
        wait_for(lambda: annotations(maps)["ray-tpu-serve/deploying-until"] > "2026-01-02", 10, "it is not renewed")
        with pytest.raises(OperationError), lock.locked(maps.api, RECORD, 0):
            pytest.fail("two are inside")


def test_the_lock_of_somebody_else_is_not_released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_RENEWAL_S", 60.0)
    maps = ConfigMaps()
    with contextlib.ExitStack() as second:
        with lock.locked(maps.api, RECORD, 1):
            make_void(maps)
            second.enter_context(lock.locked(maps.api, RECORD, 1))
            theirs = annotations(maps)
        assert annotations(maps) == theirs
    assert annotations(maps) == {}


def test_a_record_that_is_gone_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """`down` beside a rollout."""
    monkeypatch.setattr(lock, "_RENEWAL_S", 0.01)
    maps = ConfigMaps()
    with lock.locked(maps.api, RECORD, 1):
        maps.objects.clear()
        before = maps.reads
        wait_for(lambda: maps.reads > before + 2, 10, "it is not renewed")
    assert maps.objects == {}


def test_many_at_once_are_inside_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_POLL_S", 0.001)
    monkeypatch.setattr(lock, "_HELD", timedelta(minutes=1))
    maps, inside, counts = ConfigMaps(), threading.Semaphore(1), []

    def enter() -> None:
        with lock.locked(maps.api, RECORD, 30):
            counts.append(inside.acquire(blocking=False))
            inside.release()

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [True] * 8

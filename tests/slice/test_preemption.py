"""Drain the whole slice of a host that is draining, whether Ray reports an end, a late one or none."""

import asyncio
import math
from typing import Any, cast

import pytest

from apps.slice import preemption
from apps.slice.hosts import Host
from apps.slice.preemption import PreemptionHandler
from apps.slice.reservation import ReservedSlice
from apps.slice.topology import slice_of

HOSTS = tuple(Host("slice-a", number, f"node-{number}", "127.0.0.1", 1) for number in range(4))
RESERVED = ReservedSlice("slice-a", slice_of("v6e", "4x4"), cast(Any, None), HOSTS)


class Gcs:
    """Stand-in for Ray's client that records what is drained."""

    def __init__(self, leaving: dict[str, int]) -> None:
        self.leaving = leaving
        self.drained: list[tuple[str, int]] = []

    def get_draining_nodes(self) -> dict[str, int]:
        return self.leaving

    def drain_node(self, node_id: str, reason: int, why: str, end_ms: int) -> None:
        assert (reason, "as a whole" in why) == (2, True)
        self.drained.append((node_id, end_ms))


def polled(monkeypatch: pytest.MonkeyPatch, leaving: dict[str, int], polls: int = 1) -> tuple[Gcs, bool]:
    """Returns the client after some polls, and whether the responses were ended within a moment."""
    gcs = Gcs(leaving)
    monkeypatch.setattr(preemption, "_gcs", lambda: gcs)

    async def scenario() -> bool:
        broken = asyncio.Event()
        followed = PreemptionHandler(RESERVED, broken)
        for _ in range(polls):
            await followed.poll()
        await asyncio.sleep(0.05)
        return broken.is_set()

    return gcs, asyncio.run(scenario())


def test_nobody_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    gcs, broken = polled(monkeypatch, {"another-node": 1})
    assert (gcs.drained, broken) == ([], False)


def test_the_others_leave_with_the_first_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gcs, broken = polled(monkeypatch, {"node-1": 1000}, polls=3)
    assert [node for node, _ in gcs.drained] == ["node-0", "node-2", "node-3"]
    assert broken, "its end is past"


def test_an_end_that_is_not_reported_ends_no_response(monkeypatch: pytest.MonkeyPatch) -> None:
    gcs, broken = polled(monkeypatch, {"node-1": 0}, polls=2)
    assert gcs.drained == [("node-0", 0), ("node-2", 0), ("node-3", 0)]
    assert not broken


def test_a_ray_that_does_not_answer_leaves_the_watchdog_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent() -> dict[str, float]:
        raise RuntimeError("no control store")

    monkeypatch.setattr(preemption, "draining", silent)
    asyncio.run(PreemptionHandler(RESERVED, asyncio.Event()).poll())


def test_times_are_those_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preemption, "_gcs", lambda: Gcs({"a": 0, "b": 61_000}))
    monkeypatch.setattr("apps.slice.preemption.time.time", lambda: 1.0)
    assert preemption.draining() == {"a": math.inf, "b": 60.0}

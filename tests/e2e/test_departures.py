"""Hosts that are told to go, as spot machines are: SIGTERM, and some seconds to end."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime_env.local.hosts import NOTICE_S
from tests.e2e.emulated import EmulatedSlice, wait_for
from tests.e2e.test_drills import Load, answers, report


@pytest.fixture(scope="module")
def two_slices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedSlice]:
    stack = EmulatedSlice.on_free_ports(tmp_path_factory.mktemp("state"))
    try:
        stack.run("--detach", "--slices=2")
        yield stack
    finally:
        stack.stop()


def notice(stack: EmulatedSlice, host: str) -> None:
    os.kill(stack.record().hosts[host], signal.SIGTERM)


@pytest.mark.slow
def test_a_spot_notice_loses_no_request_where_another_slice_is(two_slices: EmulatedSlice, tmp_path: Path) -> None:
    two_slices.deploy(lambda llm: llm["deployment_config"].update(num_replicas=2), tmp_path)
    wait_for(lambda: two_slices.running() and len(two_slices.placement_groups()) == 2, 90, "both slices serve")
    load = Load(two_slices.url)

    async def drill() -> float:
        running = asyncio.create_task(load.run(15))
        await asyncio.sleep(5)
        begun = time.monotonic()
        await asyncio.to_thread(notice, two_slices, "slice-a/2")
        await asyncio.to_thread(wait_for, lambda: _gone(two_slices, "slice-a"), NOTICE_S + 15, "the slice to be left")
        left_s = time.monotonic() - begun
        await running
        return left_s

    left_s = asyncio.run(drill())
    bad = [ended for ended in load.ended if ended[2] != "done"]
    report("spot notice, two slices", f"{len(load.ended)} streams, {len(bad)} failed; left the slice after {left_s:.0f} s")
    assert bad == []


@pytest.mark.slow
def test_a_spot_notice_on_the_only_slice_ends_a_long_answer_with_words(two_slices: EmulatedSlice) -> None:
    assert two_slices.held_slice() == "slice-b", "the drill before this one leaves one slice"
    load, long = Load(two_slices.url), Load(two_slices.url, clients=1, max_tokens=20_000)

    async def drill() -> tuple[float, float]:
        answering = asyncio.create_task(long.run(1))
        await asyncio.sleep(3)
        told = time.monotonic()
        await asyncio.to_thread(notice, two_slices, "slice-b/1")
        others = asyncio.create_task(load.run(NOTICE_S))
        await answering
        ended_s = time.monotonic() - told
        await others
        for host in range(4):
            await asyncio.to_thread(two_slices.run, f"--start-host=slice-a/{host}")
        back = time.monotonic()
        await asyncio.to_thread(wait_for, lambda: answers(two_slices), 60, "an answer from the slice that came")
        return ended_s, time.monotonic() - back

    ended_s, healed_s = asyncio.run(drill())
    ((_, _, outcome),) = long.ended
    report(
        "spot notice, one slice",
        f"a long answer ends with an error after {ended_s:.0f} s; serves {healed_s:.0f} s after hosts came",
    )
    assert outcome.startswith('error: data: {"error": {"message": ')
    assert NOTICE_S - 5 < ended_s < NOTICE_S + 1
    refused = [ended for ended in load.ended if ended[2] != "done"]
    assert refused
    assert [ended for ended in refused if not ended[2].startswith("503 retry-after=30 {")] == []


def _gone(stack: EmulatedSlice, slice_name: str) -> bool:
    return f"slice:{slice_name}" not in {group["name"] for group in stack.placement_groups() if group["state"] == "CREATED"}

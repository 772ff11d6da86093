"""Three slices: one serves under load without a false alarm, the others see deploys and deletes, again and again.

`ENDURANCE=full` makes it 200 deploys and deletes and at least ten minutes; without it the test command takes a tenth of that.
"""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from emulation.hosts import processes
from emulation.hosts.record import StackRecord
from tests.e2e.conftest import ROOT
from tests.e2e.drills import Row, report
from tests.e2e.emulated import EmulatedSlice, ray_environment
from tests.e2e.load import Load

PAIRS, SOAK_S = (100, 600) if os.environ.get("ENDURANCE") == "full" else (12, 60)
"""Pairs of deploys and deletes; seconds of load at least."""
WARM_UP_PAIRS = 4


@pytest.fixture
def emulated(tmp_path: Path) -> Iterator[EmulatedSlice]:
    stack = EmulatedSlice.on_free_ports(tmp_path)
    try:
        stack.run("--detach", "--slices=3")
        yield stack
    finally:
        stack.stop()


@dataclass(frozen=True)
class Footprint:
    """What could leak: Ray's objects by kind, and the operating system's."""

    placement_groups: int
    actors: int
    processes: int
    descriptors: int
    listening: int

    @classmethod
    def of(cls, stack: EmulatedSlice, record: StackRecord) -> "Footprint":
        ours = processes.find(record.session_ids, Path(record.temp_dir))
        listening, descriptors = set(), 0
        for process in ours:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has exited meanwhile
                listening |= {c.laddr for c in process.net_connections("tcp") if c.status == "LISTEN"}
                descriptors += process.num_fds()
        return cls(len(stack.placement_groups()), len(stack.actors()), len(ours), descriptors, len(listening))


@pytest.mark.full
@pytest.mark.timeout(15 * PAIRS + 2 * SOAK_S + 600)
def test_nothing_leaks_and_no_alarm_is_false(emulated: EmulatedSlice) -> None:
    record = emulated.record()
    load = Load(emulated.url, clients=2)

    async def both() -> tuple[list[float], Footprint, Footprint]:
        soak = asyncio.create_task(load.run(SOAK_S))
        first = await asyncio.to_thread(_pairs, record, WARM_UP_PAIRS)
        before = await asyncio.to_thread(Footprint.of, emulated, record)
        seconds = await asyncio.to_thread(_pairs, record, PAIRS - WARM_UP_PAIRS)
        after = await asyncio.to_thread(_settled, emulated, record, before)
        await soak
        return first + seconds, before, after

    seconds, before, after = asyncio.run(both())
    bad = load.lost
    report(
        f"{2 * PAIRS} deploys and deletes",
        Row(served="without a pause", lost=load.losses, saw="nothing"),
    )
    print(f"{SOAK_S} s of load; {sum(seconds) / len(seconds):.1f} s a pair; {before} before, {after} after")
    assert bad == []
    assert _alarms(record) == []
    assert len(seconds) == PAIRS
    assert after.placement_groups == before.placement_groups == 1
    assert after.actors == before.actors
    assert after.processes <= before.processes
    assert after.listening <= before.listening
    assert after.descriptors <= before.descriptors + 20  # a few connections come and go


def _pairs(record: StackRecord, pairs: int) -> list[float]:
    command = [sys.executable, "-m", "tests.e2e.rounds", str(pairs)]
    log = Path(record.temp_dir, "rounds.log")
    with log.open("w") as errors:
        done = subprocess.run(
            command, cwd=ROOT, env=ray_environment(record), stdout=subprocess.PIPE, stderr=errors, text=True, timeout=30 * pairs
        )
    assert done.returncode == 0, log.read_text()[-4000:]
    seconds: list[float] = json.loads(done.stdout.strip().splitlines()[-1])
    return seconds


def _settled(stack: EmulatedSlice, record: StackRecord, before: Footprint, seconds: float = 60) -> Footprint:
    """The footprint once it is no larger than before, or as it is at the deadline."""
    end = time.monotonic() + seconds
    while (now := Footprint.of(stack, record)) and time.monotonic() < end:
        if now.processes <= before.processes and now.actors == before.actors:
            break
        time.sleep(1)
    return now


def _alarms(record: StackRecord) -> list[str]:
    logs = Path(record.temp_dir, "ray", "session_latest", "logs", "serve").glob("replica_*.log")
    return [line for log in logs for line in log.read_text().splitlines() if re.search(r"host \d is lost", line)]

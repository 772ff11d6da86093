"""What comes back by itself: HAProxy, Serve's controller, a replica whose bucket is gone. One story on one slice."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from runtime_env.local import processes
from tests.e2e.drills import report
from tests.e2e.emulated import EmulatedSlice, wait_for
from tests.e2e.test_drills import Load, answers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedSlice]:
    found = EmulatedSlice.on_free_ports(tmp_path_factory.mktemp("state"))
    try:
        found.run("--detach")
        yield found
    finally:
        found.stop()


def under_load(
    stack: EmulatedSlice, harm: Callable[[], None], recovered: Callable[[], object], what: str
) -> tuple[float, Load]:
    """Do harm while four clients stream; seconds until it has recovered, and how the streams ended."""
    wait_for(lambda: _answers(stack), 60, "the stack to be whole again after the drill before")
    load = Load(stack.url)

    async def drill() -> float:
        done = asyncio.Event()
        running = asyncio.create_task(load.run(120, until=done))
        await asyncio.sleep(2)
        await asyncio.to_thread(harm)
        seconds = await asyncio.to_thread(wait_for, recovered, 60, what)
        await asyncio.sleep(2)
        done.set()
        await running
        return seconds

    return asyncio.run(drill()), load


def lost(load: Load) -> list[tuple[float, float, str]]:
    return [ended for ended in load.ended if ended[2] != "done"]


def test_haproxy_killed(stack: EmulatedSlice) -> None:
    record = stack.record()

    def proxies() -> list[psutil.Process]:
        return [one for one in processes.find(record.session_ids, Path(record.temp_dir)) if _name(one) == "haproxy"]

    def kill() -> None:
        assert proxies()
        for one in proxies():
            one.kill()

    seconds, load = under_load(stack, kill, lambda: proxies() and _answers(stack), "HAProxy to come back")
    report("HAProxy killed", f"answers again after {seconds:.0f} s; {len(lost(load))} of {len(load.ended)} streams lost")
    assert not any("hang" in outcome for *_, outcome in load.ended)
    assert seconds < 20


def test_serve_controller_killed(stack: EmulatedSlice) -> None:
    def pid() -> int:
        return next((a["pid"] for a in stack.actors() if a["name"] == "SERVE_CONTROLLER_ACTOR" and a["state"] == "ALIVE"), 0)

    before = pid()

    def kill() -> None:
        psutil.Process(before).send_signal(signal.SIGKILL)

    seconds, load = under_load(stack, kill, lambda: pid() not in (0, before) and stack.running(), "the controller to come back")
    report("Serve controller killed", f"back after {seconds:.0f} s; {len(lost(load))} of {len(load.ended)} streams lost")
    assert lost(load) == []


def test_bucket_that_cannot_be_read_at_a_restart(stack: EmulatedSlice) -> None:
    manifest = Path(stack.record().temp_dir) / "bucket" / "model" / "manifest.json"
    manifest.unlink()
    manifest.mkdir()  # reading it fails from now on
    stack.replica().kill()
    killed = time.monotonic()
    wait_for(lambda: not _answers(stack), 20, "the replica to be gone")
    wait_for(lambda: _answers(stack), 90, "an answer from what is on the disks")
    report("bucket unreachable at a restart", f"serves from the hosts' disks {time.monotonic() - killed:.0f} s after the kill")


def _name(process: psutil.Process) -> str:
    """Empty for one that has ended since it was found."""
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def _answers(stack: EmulatedSlice) -> bool:
    try:
        return answers(stack)
    except OSError:
        return False

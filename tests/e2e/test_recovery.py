"""What comes back: HAProxy, Serve's controller, a replica without its bucket or disk, the head. One story on one slice.

The stack has a disk of its own, where this user may mount one, and keeps the head's state in a Redis, where there is one.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from emulation.hosts import processes
from emulation.hosts.preflight import free_ports
from tests.e2e.drills import under_load
from tests.e2e.emulated import EmulatedSlice, wait_for
from tests.e2e.load import CUT, REFUSED, RETRY, Load, play

pytestmark = pytest.mark.full
REDIS = shutil.which("redis-server")
DISK = "2G"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    """HOST:PORT of a Redis of our own, in memory alone."""
    if not REDIS:
        assert not os.environ.get("REQUIRE_REDIS"), "redis-server is not installed"
        yield None
        return
    (port,) = free_ports(1)
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(tmp_path_factory.mktemp("redis"))]
    server = subprocess.Popen([REDIS, *options], stdout=subprocess.DEVNULL)
    yield f"127.0.0.1:{port}"
    server.terminate()
    server.wait(20)


def keys(redis: str) -> list[str]:
    host, _, port = redis.rpartition(":")
    asked = ["redis-cli", "-h", host, "-p", port, "KEYS", "*"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture(scope="module")
def small_disk() -> Iterator[Path | None]:
    """A disk that can be filled; None where this user may not mount one."""
    path = Path(f"/tmp/d{secrets.token_hex(2)}")  # short, as sockets are below it
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", path], capture_output=True).returncode == 0
    yield path if mounted else None
    if mounted:
        subprocess.run(["umount", "--lazy", path], check=True)
    path.rmdir()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis: str | None, small_disk: Path | None) -> Iterator[EmulatedSlice]:
    started = EmulatedSlice.on_free_ports(tmp_path_factory.mktemp("state"))
    if small_disk:
        started.environment["TMPDIR"] = str(small_disk)
    try:
        started.run("--detach", *([f"--redis={redis}"] if redis else []))
        yield started
    finally:
        output = started.stop()
    assert "could not be cleared" not in output
    assert not redis or not keys(redis), "what a stopped stack left in Redis"


@pytest.fixture(autouse=True)
def whole(stack: EmulatedSlice) -> None:
    wait_for(lambda: stack.running() and stack.answers(), 60, "the stack to be whole again after the drill before")


def test_haproxy_killed(stack: EmulatedSlice) -> None:
    record = stack.record()

    def proxies() -> list[psutil.Process]:
        return [process for process in processes.find(record.session_ids, Path(record.temp_dir)) if _name(process) == "haproxy"]

    def kill() -> None:
        assert proxies()
        processes.send(psutil.Process.kill, proxies())

    story = play(Load(stack.url), kill, lambda: proxies() and stack.answers())
    under_load("HAProxy killed", story)
    seen = {request.in_words for request in story.load.lost}
    assert seen <= {REFUSED, CUT, RETRY}
    assert story.served_s < 30


def test_serve_controller_killed(stack: EmulatedSlice) -> None:
    def pid() -> int:
        return next((a["pid"] for a in stack.actors() if a["name"] == "SERVE_CONTROLLER_ACTOR" and a["state"] == "ALIVE"), 0)

    before = pid()
    back_s: list[float] = []

    def kill() -> None:
        psutil.Process(before).send_signal(signal.SIGKILL)
        back_s.append(wait_for(lambda: pid() not in (0, before) and stack.running(), 60, "the controller to come back"))

    story = play(Load(stack.url), kill, stack.running)
    under_load("Serve controller killed", story, saw=f"it is back after {back_s[0]:.0f} s")
    assert story.load.lost == []


def test_a_full_disk_stops_no_answer(stack: EmulatedSlice, small_disk: Path | None) -> None:
    ballast = filled(small_disk)
    load = Load(stack.url)
    story = play(load, ballast.fill, lambda: len(load.ended) > 40)
    under_load("disk of the logs full", story)
    assert shutil.disk_usage(ballast.disk).free == 0
    assert story.load.lost == []


def test_a_replica_that_restarts_on_a_full_disk_comes_up_when_there_is_room(
    stack: EmulatedSlice, small_disk: Path | None
) -> None:
    ballast, replica = filled(small_disk), stack.replica()
    ballast.fill()

    def harm() -> None:
        replica.kill()
        wait_for(lambda: "failed to start" in stack.message(), 90, "Serve to report that the replica does not start")

    try:
        story = play(Load(stack.url), harm, lambda: stack.running() and stack.answers(), mend=ballast.free)
    finally:
        ballast.free()
    seen = "`serve status`: the replica fails to start"
    under_load("replica killed, disk full", story, served=f"{story.served_s:.0f} s after there was room", saw=seen)
    assert story.hangs == []


def test_bucket_that_cannot_be_read_at_a_restart(stack: EmulatedSlice) -> None:
    manifest = Path(stack.record().temp_dir) / "bucket" / "model" / "manifest.json"
    kept, replica = manifest.read_bytes(), stack.replica()

    def harm() -> None:
        manifest.unlink()
        manifest.mkdir()  # reading it fails from now on
        replica.kill()

    story = play(Load(stack.url), harm, lambda: not replica.is_running() and stack.running() and stack.answers())
    under_load("bucket unreachable at a restart", story, saw="the model is served from the hosts' disks")
    assert story.hangs == []
    manifest.rmdir()
    manifest.write_bytes(kept)


def test_a_lost_head_whose_state_is_in_redis_comes_back_to_a_running_model(stack: EmulatedSlice, redis: str | None) -> None:
    if not redis:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    replica, hosts = stack.replica(), stack.record().hosts
    inside = Load(stack.replica_url(), clients=2)  # as HAProxy on a host of the slice would; here it is on the head alone

    def lose_head() -> None:
        stack.kill("head")
        again = stack.command("--detach")
        output, _ = again.communicate(timeout=60)
        assert (again.returncode, "--start-host head brings it back" in output) == (2, True), "a start must not end what runs"

    story = play(
        Load(stack.url, clients=2),
        lose_head,
        lambda: stack.running() and stack.answers(),
        mend=lambda: stack.run("--start-host=head"),
        beside=inside,
        seconds=180,
    )
    past = f"past the head's HAProxy: {inside.losses}"
    under_load("head lost, its state in Redis", story, saw=past)
    assert stack.replica().pid == replica.pid
    assert len(stack.nodes()) == len(hosts) + 1
    assert inside.lost == []
    assert story.hangs == []


@dataclass(frozen=True)
class Ballast:
    """A file that takes what room a disk has."""

    disk: Path

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.disk / "ballast").open("ab", buffering=0) as file:
            while file.write(bytes(1024**2)):
                pass

    def free(self) -> None:
        (self.disk / "ballast").unlink(missing_ok=True)


def filled(disk: Path | None) -> Ballast:
    if not disk:
        pytest.skip("this user may not mount a disk to fill")
    return Ballast(disk)


def _name(process: psutil.Process) -> str:
    """Name of a process; empty for one that has exited meanwhile."""
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""

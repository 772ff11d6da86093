"""Failure drills on an emulated v6e 4x4 slice, in one story on one stack; each prints the time that it measured."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from apps.weights import receipt
from tests.e2e.conftest import ROOT
from tests.e2e.drills import report
from tests.e2e.emulated import MODEL, EmulatedSlice, ray_environment, wait_for

LATE_S = 60
DETECT_S = 20
HEAL_S = 30


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedSlice]:
    stack = EmulatedSlice.on_free_ports(tmp_path_factory.mktemp("state"))
    up = stack.command("--detach", "--absent=slice-a/2")
    try:
        start = time.monotonic()
        wait_for(lambda: _starting(stack), 120, "the replica to wait for its slice")
        time.sleep(max(0.0, LATE_S - (time.monotonic() - start)))  # the drill: a host joins a minute after the others
        stack.run("--start-host=slice-a/2")
        joined = time.monotonic()
        wait_for(stack.running, 60, "the app to run after the last host joined")
        report("late host", f"joined after {LATE_S} s, RUNNING {time.monotonic() - joined:.0f} s later")
        assert up.wait(60) == 0
        yield stack
    finally:
        up.kill()
        stack.stop()


def _starting(stack: EmulatedSlice) -> bool:
    try:
        return any(r["state"] == "STARTING" for r in stack.deployment().get("replicas", []))
    except (OSError, KeyError):
        return False


@dataclass
class Load:
    """Streams from several clients, and how each ended: (seconds since the start, seconds it took, outcome)."""

    url: str
    clients: int = 4
    max_tokens: int = 100
    ended: list[tuple[float, float, str]] = field(default_factory=list)

    async def run(self, seconds: float, until: asyncio.Event | None = None) -> None:
        """For so long at most, or until an event."""
        start, until = time.monotonic(), until or asyncio.Event()
        await asyncio.gather(*(self._client(start, seconds, number, until) for number in range(self.clients)))

    async def _client(self, start: float, seconds: float, number: int, until: asyncio.Event) -> None:
        body = {"model": MODEL, "prompt": f"client {number}", "max_tokens": self.max_tokens, "ignore_eos": True, "stream": True}
        async with httpx.AsyncClient(timeout=15) as http:
            while time.monotonic() - start < seconds and not until.is_set():
                began = time.monotonic()
                outcome = await self._request(http, body)
                self.ended.append((time.monotonic() - start, time.monotonic() - began, outcome))
                if outcome != "done":
                    await asyncio.sleep(0.25)

    async def _request(self, http: httpx.AsyncClient, body: dict[str, Any]) -> str:
        try:
            async with http.stream("POST", f"{self.url}/v1/completions", json=body) as answer:
                lines = [line async for line in answer.aiter_lines() if line]
        except httpx.TimeoutException:
            return "hang"
        except httpx.TransportError as error:
            return f"broken connection: {error!r}"
        if answer.status_code == 200:
            return "done" if lines[-1] == "data: [DONE]" else f"error: {lines[-1]}"
        return f"{answer.status_code} retry-after={answer.headers.get('retry-after')} {lines[-1]}"


def test_the_slice_is_one_placement_group_on_one_slice(emulated: EmulatedSlice) -> None:
    (group,) = emulated.placement_groups()
    nodes = emulated.nodes()
    bundles = group["bundles"]
    assert [bundle["unit_resources"]["TPU"] for bundle in bundles] == [4.0] * 4
    assert {nodes[b["node_id"]]["ray.io/tpu-slice-name"] for b in bundles} == {"slice-a"}
    assert {nodes[b["node_id"]]["ray.io/tpu-worker-id"] for b in bundles} == {"0", "1", "2", "3"}


def test_the_replica_is_on_its_slice_and_not_on_the_head(emulated: EmulatedSlice) -> None:
    (replica,) = emulated.deployment()["replicas"]
    assert emulated.nodes()[replica["node_id"]]["ray.io/tpu-worker-id"] == "0"


def test_every_host_has_the_weights_and_each_byte_left_the_bucket_once(emulated: EmulatedSlice) -> None:
    temp_dir = Path(emulated.record().temp_dir)
    for host in range(4):
        receipt.verify(temp_dir / "disks" / f"slice-a-{host}" / "model", deep=True)
    logs = (temp_dir / "ray" / "session_latest" / "logs" / "serve").glob("replica_llm_*.log")
    said = "".join(log.read_text() for log in logs)
    assert "64.0 MiB read from the bucket, 0.19 GiB exchanged" in said


def test_weights_come_ahead_of_time_to_all_slices(emulated: EmulatedSlice, tmp_path: Path) -> None:
    url = f"file://{emulated.record().temp_dir}/bucket/model"
    command = [sys.executable, "-m", "apps.weights", "prefetch", url, "--to", f"{tmp_path}/{{host}}", "--all-slices"]
    environment = ray_environment(emulated.record())
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "slice-a: 64.0 MiB on every host" in done.stdout
    for host in range(4):
        receipt.verify(tmp_path / f"slice-a-{host}", deep=True)


def test_a_killed_replica_comes_back_on_its_slice(emulated: EmulatedSlice) -> None:
    (before,) = emulated.placement_groups()
    replica = emulated.replica()
    replica.kill()
    killed = time.monotonic()
    wait_for(lambda: before["placement_group_id"] not in _group_ids(emulated), 60, "the old placement group to go")
    freed_s = time.monotonic() - killed
    wait_for(lambda: emulated.running() and emulated.held_slice() == "slice-a", 60, "the replica to come back")
    report("replica killed", f"slice freed after {freed_s:.0f} s, RUNNING on it again after {time.monotonic() - killed:.0f} s")
    assert len(emulated.placement_groups()) == 1
    wait_for(lambda: answers(emulated), 20, "an answer")


def test_a_host_killed_under_load_is_noticed_and_no_client_hangs(emulated: EmulatedSlice) -> None:
    load = Load(emulated.url)

    async def drill() -> tuple[float, float]:
        running = asyncio.create_task(load.run(70))
        await asyncio.sleep(5)
        begun = time.monotonic() - 5
        await asyncio.to_thread(emulated.run, "--kill-host=slice-a/2")
        killed_s = time.monotonic() - begun
        await asyncio.sleep(30)
        await asyncio.to_thread(emulated.run, "--start-host=slice-a/2")
        back_s = time.monotonic() - begun
        await running
        return killed_s, back_s

    killed_s, back_s = asyncio.run(drill())
    bad = [ended for ended in load.ended if ended[2] != "done"]
    healed_s = next(at for at, took, outcome in load.ended if outcome == "done" and at - took > bad[-1][0])
    report(
        "host killed under load",
        f"noticed after {bad[0][0] - killed_s:.0f} s, served {healed_s - back_s:.0f} s after its return",
    )
    assert bad[0][0] - killed_s <= DETECT_S
    assert healed_s - back_s <= HEAL_S
    forms = ('error: data: {"error": {"message": ', "503 retry-after=30 {")
    assert [ended for ended in bad if not ended[2].startswith(forms)] == []


def test_a_broken_slice_is_left_for_a_whole_one(emulated: EmulatedSlice) -> None:
    for host in range(4):
        emulated.run(f"--start-host=slice-b/{host}")
    wait_for(lambda: len(emulated.nodes()) == 9, 60, "the second slice to join")
    emulated.run("--kill-host=slice-a/3")
    killed = time.monotonic()
    wait_for(lambda: emulated.held_slice() == "slice-b", 90, "the replica to take the whole slice")
    wait_for(lambda: emulated.running() and answers(emulated), 60, "an answer from the other slice")
    report("one of two slices broken", f"served by the whole one {time.monotonic() - killed:.0f} s after the host's death")


def test_a_replica_without_a_slice_waits_and_says_for_what(emulated: EmulatedSlice, tmp_path: Path) -> None:
    emulated.run("--start-host=slice-a/3")
    emulated.deploy(lambda llm: llm["deployment_config"].update(num_replicas=3), tmp_path)
    seconds = wait_for(lambda: "TPU-v6e-16-head" in emulated.message(), 120, "the message")
    report("slices busy", f"the third replica of two slices says what it waits for after {seconds:.0f} s")
    assert {g["name"] for g in emulated.placement_groups() if g["state"] == "CREATED"} == {"slice:slice-a", "slice:slice-b"}
    emulated.deploy(lambda llm: llm["deployment_config"].update(num_replicas=1), tmp_path)
    wait_for(lambda: emulated.running() and len(emulated.placement_groups()) == 1, 90, "one replica again")


def test_a_slice_that_stays_incomplete_fails_the_deploy_by_name(emulated: EmulatedSlice, tmp_path: Path) -> None:
    for host in ("slice-a/1", "slice-b/1"):
        emulated.run(f"--kill-host={host}")
    emulated.deploy(lambda llm: llm.update(experimental_configs={"slice_timeout_s": 5}), tmp_path)
    seconds = wait_for(lambda: emulated.app().get("status") == "DEPLOY_FAILED", 180, "the deploy to fail")
    report("host count wrong", f"the deploy fails after {seconds:.0f} s and names the missing host")
    assert "host 1 of 4 is missing" in emulated.message()
    refused = httpx.post(f"{emulated.url}/v1/completions", json={"model": MODEL, "prompt": "hello"}, timeout=15)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")
    assert refused.json()["error"]["type"] == "service_unavailable_error"


def _group_ids(emulated: EmulatedSlice) -> set[str]:
    return {group["placement_group_id"] for group in emulated.placement_groups()}


def answers(emulated: EmulatedSlice) -> bool:
    body = {"model": MODEL, "prompt": "hello", "max_tokens": 1}
    return httpx.post(f"{emulated.url}/v1/completions", json=body, timeout=15).status_code == 200

"""Failure drills on emulated v6e 4x4 slices, on one stack that each finds whole; each prints the time that it measured."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from apps.common.errors import UserError
from apps.weights import receipt
from tests.e2e.conftest import ROOT
from tests.e2e.drills import Row, report, under_load
from tests.e2e.emulated import MODEL, EmulatedSlice, ray_environment, wait_for
from tests.e2e.load import ERROR, RETRY, Load, Story, play

LATE_S = 20
SLICES = {"slice-a": "slice-b", "slice-b": "slice-a"}
"""The other one of each."""
DETECT_S = 20


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedSlice]:
    stack = EmulatedSlice.on_free_ports(tmp_path_factory.mktemp("state"))
    up = stack.command("--detach", "--absent=slice-a/2")
    try:
        start = time.monotonic()
        wait_for(lambda: _starting(stack), 120, "the replica to wait for its slice")
        time.sleep(max(0.0, LATE_S - (time.monotonic() - start)))  # the drill: a host joins long after the others
        stack.run("--start-host=slice-a/2")
        joined = time.monotonic()
        wait_for(stack.running, 60, "the app to run after the last host joined")
        served = f"RUNNING {time.monotonic() - joined:.0f} s after it joined, {LATE_S} s late"
        report("late host", Row(served=served, saw="`serve status` names the host"))
        assert up.wait(60) == 0
        yield stack
    finally:
        up.kill()
        stack.stop()


def _starting(stack: EmulatedSlice) -> bool:
    try:
        return any(r["state"] == "STARTING" for r in stack.deployment().get("replicas", []))
    except (OSError, KeyError, UserError):  # nobody listens yet; no app yet; Ray's token is not made yet
        return False


@pytest.fixture(autouse=True)
def here(emulated: EmulatedSlice, tmp_path: Path) -> str:
    """The slice that serves, whole and alone, whatever the drill before has left."""
    slice_name = emulated.reserved_slice() or "slice-a"
    whole, running = set(hosts_of(slice_name)), emulated.hosts()
    emulated.kill(*(running - whole))
    start(emulated, *sorted(whole - running))
    if emulated.app().get("status") == "DEPLOY_FAILED":
        emulated.deploy(lambda _: None, tmp_path)
    wait_for(
        lambda: emulated.running() and emulated.answers() and len(emulated.placement_groups()) == 1, 120, "the app to be whole"
    )
    return slice_name


def hosts_of(slice_name: str) -> list[str]:
    return [f"{slice_name}/{host}" for host in range(4)]


def start(emulated: EmulatedSlice, *hosts: str) -> None:
    for host in hosts:
        emulated.run(f"--start-host={host}")


def test_the_slice_is_one_placement_group_on_one_slice(emulated: EmulatedSlice, here: str) -> None:
    (group,) = emulated.placement_groups()
    nodes = emulated.nodes()
    bundles = group["bundles"]
    assert [bundle["unit_resources"]["TPU"] for bundle in bundles] == [4.0] * 4
    assert {nodes[b["node_id"]]["ray.io/tpu-slice-name"] for b in bundles} == {here}
    assert {nodes[b["node_id"]]["ray.io/tpu-worker-id"] for b in bundles} == {"0", "1", "2", "3"}


def test_the_replica_is_on_its_slice_and_not_on_the_head(emulated: EmulatedSlice) -> None:
    (replica,) = emulated.deployment()["replicas"]
    assert emulated.nodes()[replica["node_id"]]["ray.io/tpu-worker-id"] == "0"


def test_every_host_has_the_weights_and_each_byte_left_the_bucket_once(emulated: EmulatedSlice, here: str) -> None:
    temp_dir = Path(emulated.record().temp_dir)
    for host in range(4):
        receipt.verify(temp_dir / "disks" / f"{here}-{host}" / "model", deep=True)
    logs = (temp_dir / "ray" / "session_latest" / "logs" / "serve").glob("replica_llm_*.log")
    text = "".join(log.read_text() for log in logs)
    assert "64.0 MiB read from the bucket, 0.19 GiB exchanged" in text


@pytest.mark.full
def test_weights_come_ahead_of_time_to_all_slices(emulated: EmulatedSlice, here: str, tmp_path: Path) -> None:
    url = f"file://{emulated.record().temp_dir}/bucket/model"
    command = [sys.executable, "-m", "apps.weights", "prefetch", url, "--to", f"{tmp_path}/{{host}}", "--all-slices"]
    environment = ray_environment(emulated.record())
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"{here}: 64.0 MiB on every host" in done.stdout
    for host in range(4):
        receipt.verify(tmp_path / f"{here}-{host}", deep=True)


def test_a_killed_replica_comes_back_on_its_slice(emulated: EmulatedSlice, here: str) -> None:
    (before,) = emulated.placement_groups()

    def healed() -> bool:
        fresh = before["placement_group_id"] not in _group_ids(emulated)
        return fresh and emulated.running() and emulated.reserved_slice() == here

    story = play(Load(emulated.url), emulated.replica().kill, healed)
    under_load("replica's process killed in mid-stream", story)
    assert len(emulated.placement_groups()) == 1
    assert story.hangs == []


@pytest.mark.full
def test_a_host_killed_under_load_is_noticed_and_no_client_hangs(emulated: EmulatedSlice, here: str) -> None:
    story = play(
        Load(emulated.url),
        lambda: emulated.kill(f"{here}/2"),
        lambda: emulated.running() and emulated.answers(),
        mend=lambda: start(emulated, f"{here}/2"),
    )
    under_load("host lost, and back", story)
    assert_informed(story)


@pytest.mark.full
def test_a_lost_slice_comes_back_under_another_name(emulated: EmulatedSlice, here: str) -> None:
    story = play(
        Load(emulated.url),
        lambda: emulated.kill(*hosts_of(here)),
        lambda: emulated.reserved_slice() == SLICES[here] and emulated.running() and emulated.answers(),
        mend=lambda: start(emulated, *hosts_of(SLICES[here])),
    )
    under_load("whole slice lost, and another one comes", story)
    assert story.hangs == []


@pytest.mark.full
def test_a_broken_slice_is_left_for_a_whole_one(emulated: EmulatedSlice, here: str) -> None:
    start(emulated, *hosts_of(SLICES[here]))
    wait_for(lambda: len(emulated.nodes()) == 9, 60, "the second slice to join")
    story = play(
        Load(emulated.url),
        lambda: emulated.kill(f"{here}/3"),
        lambda: emulated.reserved_slice() == SLICES[here] and emulated.running() and emulated.answers(),
    )
    under_load("host of one of two slices lost", story, saw="the whole slice takes over")
    assert_informed(story)


@pytest.mark.full
def test_a_replica_without_a_slice_waits_and_reports_for_what(emulated: EmulatedSlice, here: str, tmp_path: Path) -> None:
    start(emulated, *hosts_of(SLICES[here]))
    emulated.deploy(lambda llm: llm["deployment_config"].update(num_replicas=3), tmp_path)
    seconds = wait_for(lambda: "TPU-v6e-16-head" in emulated.message(), 120, "the message")
    seen = "`serve status` names what the third replica of two slices waits for"
    report("slices busy", Row(noticed=f"{seconds:.0f} s", served="the two serve on", saw=seen))
    assert {g["name"] for g in emulated.placement_groups() if g["state"] == "CREATED"} == {"slice:slice-a", "slice:slice-b"}
    chosen = [_replicas_of_a_conversation(emulated, number) for number in range(12)]
    assert all(len(replicas) == 1 for replicas in chosen)
    assert len(set.union(*chosen)) == 2
    emulated.deploy(lambda llm: llm["deployment_config"].update(num_replicas=1), tmp_path)
    wait_for(lambda: emulated.running() and len(emulated.placement_groups()) == 1, 90, "one replica again")


@pytest.mark.full
def test_a_slice_that_stays_incomplete_fails_the_deploy_by_name(emulated: EmulatedSlice, here: str, tmp_path: Path) -> None:
    emulated.run(f"--kill-host={here}/1")  # as a person does
    wait_for(lambda: len(emulated.nodes()) == 4, 60, "Ray to notice that the host is gone")
    emulated.deploy(lambda llm: llm.update(experimental_configs={"slice_timeout_s": 5}), tmp_path)
    seconds = wait_for(lambda: emulated.app().get("status") == "DEPLOY_FAILED", 180, "the deploy to fail")
    seen = "the deploy fails and names the missing host; 503 with Retry-After"
    report("host missing for good", Row(noticed=f"{seconds:.0f} s", saw=seen))
    assert "host 1 of 4 is missing" in emulated.message()
    refused = httpx.post(f"{emulated.url}/v1/completions", json={"model": MODEL, "prompt": "hello"}, timeout=15)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")
    assert refused.json()["error"]["type"] == "service_unavailable_error"


def _replicas_of_a_conversation(emulated: EmulatedSlice, number: int) -> set[str]:
    """Names of the replicas that got its turns, by HAProxy's log."""
    messages = [{"role": "system", "content": "Be brief."}]
    for turn in range(3):
        messages.append({"role": "user", "content": f"question {turn} of {number}"})
        body = {"model": MODEL, "messages": messages, "max_tokens": 4}
        headers = {"x-request-id": f"conversation-{number}-{turn}"}
        answer = httpx.post(f"{emulated.url}/v1/chat/completions", json=body, headers=headers, timeout=30).json()
        messages.append(answer["choices"][0]["message"])
    logs = list(Path(emulated.record().temp_dir).rglob("requests.jsonl"))

    def replicas() -> list[str]:
        lines = [
            json.loads(line) for log in logs for line in log.read_text().splitlines() if f'"conversation-{number}-' in line
        ]
        return [line["server"] for line in lines]

    wait_for(lambda: len(replicas()) == 3, 20, "a line of the log for each turn")
    return set(replicas())


def _group_ids(emulated: EmulatedSlice) -> set[str]:
    return {group["placement_group_id"] for group in emulated.placement_groups()}


def assert_informed(story: Story) -> None:
    """Check that each client that lost an answer got an error in OpenAI form, and soon."""
    assert story.noticed_s is not None
    assert story.noticed_s <= DETECT_S
    assert [ended for ended in story.load.lost if ended.in_words not in (ERROR, RETRY)] == []

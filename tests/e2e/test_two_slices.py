"""What two slices are good for, in one story: changes without a lost request, and hosts that get a spot notice."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from emulation.hosts.hosts import NOTICE_S
from tests.e2e.conftest import ROOT
from tests.e2e.drills import Row, report, under_load
from tests.e2e.emulated import EmulatedSlice, wait_for
from tests.e2e.load import ERROR, RETRY, Load, play


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


def change(stack: EmulatedSlice, command: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    script = [sys.executable, str(ROOT / "scripts" / "change.py"), command, "--address", stack.dashboard, *arguments]
    return subprocess.run(script, env=stack.environment, capture_output=True, text=True, timeout=240)


def written(path: Path, config: dict[str, Any], change: dict[str, Any] | None = None) -> str:
    """A file with the config, its model's deployment or engine settings changed."""
    llm = config["applications"][0]["args"]["llm_configs"][0]
    for part, values in (change or {}).items():
        llm[part].update(values)
    path.write_text(yaml.safe_dump(config))
    return str(path)


@pytest.fixture
def config(two_slices: EmulatedSlice) -> dict[str, Any]:
    """The config that the stack was started with."""
    config: dict[str, Any] = yaml.safe_load(Path(two_slices.record().temp_dir, "serve.yaml").read_text())
    return config


@pytest.mark.full
def test_a_second_replica_takes_the_second_slice(two_slices: EmulatedSlice, config: dict[str, Any], tmp_path: Path) -> None:
    same = change(two_slices, "plan", written(tmp_path / "same.yaml", config))
    assert "llm          nothing" in same.stdout, same.stderr
    two = written(tmp_path / "two.yaml", config, {"deployment_config": {"num_replicas": 2}})
    planned = change(two_slices, "plan", two, "--slices", "2", "--json")
    assert json.loads(planned.stdout)["chips"] == {"before": 16, "after": 32, "peak": 32}
    assert change(two_slices, "apply", two).returncode == 2, "there is one slice, unless one says more"
    done = change(two_slices, "apply", two, "--slices", "2")
    assert done.returncode == 0, done.stderr
    assert {group["name"] for group in two_slices.placement_groups()} == {"slice:slice-a", "slice:slice-b"}


@pytest.mark.full
def test_a_change_loses_no_request(two_slices: EmulatedSlice, config: dict[str, Any], tmp_path: Path) -> None:
    settings = {"deployment_config": {"num_replicas": 2}, "engine_kwargs": {"max_num_seqs": 64}}
    new = written(tmp_path / "new.yaml", config, settings)
    done: list[subprocess.CompletedProcess[str]] = []
    story = play(
        Load(two_slices.url),
        lambda: done.append(change(two_slices, "apply", new, "--slices", "2")),
        two_slices.running,
        seconds=240,
    )
    under_load("change on two slices", story, served=done[0].stdout.strip())
    assert done[0].returncode == 0, done[0].stderr
    assert story.load.lost == []


@pytest.mark.full
def test_a_change_that_does_not_become_healthy_is_taken_back(
    two_slices: EmulatedSlice, config: dict[str, Any], tmp_path: Path
) -> None:
    three = written(tmp_path / "three.yaml", config, {"deployment_config": {"num_replicas": 3}})
    failed = change(two_slices, "apply", three, "--slices", "3", "--timeout", "45")
    assert failed.returncode == 1
    assert "not healthy after 45 s" in failed.stderr
    assert "The config before it runs again" in failed.stderr
    assert two_slices.running()
    assert two_slices.deployment()["target_num_replicas"] == 2


@pytest.mark.full
def test_a_spot_notice_loses_no_request_where_another_slice_is(two_slices: EmulatedSlice) -> None:
    wait_for(lambda: len(two_slices.placement_groups()) == 2, 90, "both slices serve")
    left_s: list[float] = []

    def noticed() -> None:
        notice(two_slices, "slice-a/2")
        left_s.append(wait_for(lambda: _gone(two_slices, "slice-a"), NOTICE_S + 15, "the slice to be left"))

    story = play(Load(two_slices.url), noticed, lambda: len(two_slices.nodes()) == 5)
    under_load("spot notice, two slices", story, noticed=f"slice left after {left_s[0]:.0f} s")
    assert story.load.lost == []


@pytest.mark.full
def test_a_spot_notice_on_the_only_slice_ends_a_long_answer_with_words(two_slices: EmulatedSlice) -> None:
    assert two_slices.reserved_slice() == "slice-b", "the drill before this one leaves one slice"
    load, long = Load(two_slices.url), Load(two_slices.url, clients=1, max_tokens=20_000)

    async def drill() -> tuple[float, float]:
        answering = asyncio.create_task(long.run(1))
        await asyncio.sleep(3)
        noticed = time.monotonic()
        await asyncio.to_thread(notice, two_slices, "slice-b/1")
        others = asyncio.create_task(load.run(NOTICE_S))
        await answering
        ended_s = time.monotonic() - noticed
        await others
        for host in range(4):
            await asyncio.to_thread(two_slices.run, f"--start-host=slice-a/{host}")
        back = time.monotonic()
        await asyncio.to_thread(wait_for, two_slices.answers, 90, "an answer from the slice that came")
        return ended_s, time.monotonic() - back

    ended_s, healed_s = asyncio.run(drill())
    (last,) = long.ended
    report(
        "spot notice, one slice",
        Row(
            served=f"{healed_s:.0f} s after other hosts came",
            lost=f"1 long answer, {len(load.lost)} refused of {len(load.ended)}",
            saw=f"{load.saw}; the long answer may run for {ended_s:.0f} s, then ends with an error",
        ),
    )
    assert last.in_words == ERROR
    assert NOTICE_S - 5 < ended_s < NOTICE_S + 1
    assert load.lost
    assert [request.outcome for request in load.lost if request.in_words != RETRY] == []


@pytest.mark.full
def test_a_head_that_kept_its_state_alone_takes_all_with_it_and_one_command_brings_it_back(two_slices: EmulatedSlice) -> None:
    wait_for(two_slices.answers, 60, "an answer")
    before = set(two_slices.nodes())
    story = play(
        Load(two_slices.url),
        lambda: two_slices.kill("head"),
        two_slices.answers,
        mend=lambda: two_slices.run("--detach"),
    )
    under_load("head lost, its state with it", story, served=f"{story.served_s:.0f} s after the start command")
    assert not before & set(two_slices.nodes())
    assert story.hangs == []


def _gone(stack: EmulatedSlice, slice_name: str) -> bool:
    return f"slice:{slice_name}" not in {group["name"] for group in stack.placement_groups() if group["state"] == "CREATED"}

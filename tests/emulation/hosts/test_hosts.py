"""A stack without its head, and hosts that exit while they start: what the commands do, on processes that only sleep."""

import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from apps.common.errors import OperationError, UserError
from emulation.hosts import command, hosts, record
from emulation.hosts.record import StackRecord

PORT = 25_999


def sleeping(directory: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["sleep", "60"], cwd=directory, start_new_session=True)


@pytest.fixture
def headless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[StackRecord, "subprocess.Popen[bytes]"]]:
    """A record whose head has exited, and its one host, which runs."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    temp_dir = tmp_path / "stack"
    temp_dir.mkdir()
    head, host = sleeping(temp_dir), sleeping(temp_dir)
    head.kill()
    head.wait()
    stack = StackRecord(head.pid, PORT, PORT + 1, "m", "m", False, str(temp_dir), PORT + 2, {"slice-a/0": host.pid}, ready=True)
    record.write_record(stack)
    yield stack, host
    host.kill()
    host.wait()


def test_a_start_ends_what_a_lost_head_left(headless: tuple[StackRecord, "subprocess.Popen[bytes]"]) -> None:
    stack, host = headless
    assert command._running_record(PORT) is None
    assert not psutil.pid_exists(host.pid)
    assert not Path(stack.temp_dir).exists()
    assert record.read_record(PORT) is None


def test_a_start_ends_what_a_killed_start_left(headless: tuple[StackRecord, "subprocess.Popen[bytes]"]) -> None:
    stack, host = headless
    head = sleeping(Path(stack.temp_dir))
    record.write_record(replace(stack, session_id=head.pid, ready=False))
    assert command._running_record(PORT) is None
    assert not {head.pid, host.pid} & set(psutil.pids())


def test_a_start_leaves_hosts_that_wait_for_their_head(headless: tuple[StackRecord, "subprocess.Popen[bytes]"]) -> None:
    stack, host = headless
    record.write_record(replace(stack, redis="127.0.0.1:6379"))
    with pytest.raises(UserError, match="--start-host head brings it back"):
        command._running_record(PORT)
    assert host.poll() is None


@pytest.mark.usefixtures("headless")
def test_a_head_that_kept_its_state_alone_is_not_started_again() -> None:
    with pytest.raises(UserError, match="start the whole stack again"):
        hosts.change(PORT, "head", start=True)


def test_a_host_that_ends_while_it_starts_is_started_again_but_not_for_ever(
    headless: tuple[StackRecord, "subprocess.Popen[bytes]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, host = headless
    (Path(stack.temp_dir) / "slice-a-0.log").write_text("first\nno such option\n")
    again: list[str] = []
    monkeypatch.setattr(hosts, "_start", lambda _, name: again.append(name))
    starts: Counter[str] = Counter()
    hosts.restart_exited(PORT, starts)
    assert again == []
    host.kill()
    host.wait()
    for _ in range(3):
        hosts.restart_exited(PORT, starts)
    assert again == ["slice-a/0"] * 3
    with pytest.raises(OperationError, match="exited 4 times: no such option"):
        hosts.restart_exited(PORT, starts)

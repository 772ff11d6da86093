"""What is left when a start or a conversion is cut off: nothing that runs, nothing that is taken for whole."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from apps.weights.receipt import is_whole
from emulation.hosts import preflight, processes
from emulation.hosts.laptop_weights import LAPTOP_MODEL
from tests.e2e.conftest import ROOT


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


@pytest.mark.full
@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGTSTP, signal.SIGCONT, signal.SIGINT], 130),
        ([signal.SIGHUP], 130),
        ([signal.SIGKILL], -signal.SIGKILL),
    ],
    ids=["ctrl-z, fg, ctrl-c", "closed terminal", "killed"],
)
def test_a_start_that_is_cut_off_leaves_nothing(signals: list[signal.Signals], code: int, tmp_path: Path) -> None:
    port, dashboard_port = preflight.free_ports(2)
    record = tmp_path / "ray-tpu-serve" / "local" / f"{port}.json"
    command = [str(ROOT / "scripts" / "serve_local.sh"), f"--port={port}", f"--dashboard-port={dashboard_port}"]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    starting = subprocess.Popen(command, env=environment, start_new_session=True)
    wait_for(record.exists, 400, "Ray is being started")
    stack = json.loads(record.read_text())
    session, temp_dir = stack["session_id"], Path(stack["temp_dir"])
    wait_for(lambda: len(processes.find([session], temp_dir)) > 5, 60, "Ray's processes")
    for number in signals:
        os.killpg(starting.pid, number) if number is not signal.SIGKILL else starting.kill()
    assert starting.wait(90) == code
    if code < 0:  # it could not clean up: its own children end, and the next command finds the rest
        wait_for(lambda: not processes.find([starting.pid], temp_dir), 30, "`serve deploy` has ended")
        stop = [str(ROOT / "scripts" / "stop_local.sh"), f"--port={port}"]
        assert subprocess.run(stop, env=environment, timeout=90).returncode == 0
    assert processes.find([session], temp_dir) == []
    assert not temp_dir.exists()
    assert not record.exists()
    preflight.check_port(port, "--port")
    preflight.check_port(dashboard_port, "--dashboard-port")


@pytest.mark.full
def test_a_killed_conversion_is_not_taken_for_whole(tmp_path: Path) -> None:
    weights = tmp_path / "ray-tpu-serve" / "weights"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    converting = subprocess.Popen([sys.executable, "-m", "emulation.hosts.laptop_weights"], cwd=ROOT, env=environment)
    wait_for(lambda: list(weights.glob(".*/gguf/*")), 120, "the conversion has begun")
    converting.kill()
    converting.wait()
    assert not (weights / LAPTOP_MODEL).exists()
    assert not is_whole(weights / LAPTOP_MODEL)

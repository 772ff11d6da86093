"""Start, second start, refusals, and the end of the real stack."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from emulation.hosts import preflight, processes, record
from emulation.hosts.preflight import free_ports
from tests.e2e.conftest import ROOT, Stack


@pytest.fixture
def temp_dir(stack: Stack) -> Path:
    state = Path(stack.environment["XDG_STATE_HOME"]) / "ray-tpu-serve" / "local" / f"{stack.port}.json"
    return Path(json.loads(state.read_text())["temp_dir"])


def own_processes(temp_dir: Path) -> list[psutil.Process]:
    session = next(p for p in psutil.process_iter(["cmdline"]) if f"--temp-dir={temp_dir}/ray" in (p.info["cmdline"] or []))
    return processes.find([session.pid], temp_dir)


def test_serve_status_shows_both_apps_running(stack: Stack) -> None:
    serve = Path(sys.executable).parent / "serve"
    address = f"http://127.0.0.1:{stack.dashboard_port}"
    environment = {**os.environ, "RAY_AUTH_MODE": "token"}
    done = subprocess.run(
        [serve, "status", "-a", address], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    status = done.stdout
    assert status.count("status: RUNNING") == 2
    assert "llm:" in status
    assert "chat:" in status


def test_everything_listens_on_loopback_only(temp_dir: Path) -> None:
    open_wide = {
        f"{process.name()} {connection.laddr}"
        for process in own_processes(temp_dir)
        for connection in process.net_connections("tcp")
        if connection.status == "LISTEN" and not connection.laddr[0].endswith("127.0.0.1")
    }
    assert open_wide == set()


def test_memory_of_the_default_path_stays_under_8_gb(stack: Stack, temp_dir: Path) -> None:
    total = sum(process.memory_full_info().pss for process in own_processes(temp_dir))
    print(f"\n{stack.path}: {total / 1e9:.1f} GB of memory (proportional set size, all processes)")
    assert total < (8e9 if stack.path == "direct" else 8.8e9)  # the classic ingress is one more process with vLLM in it


def test_second_start_says_it_is_up(stack: Stack) -> None:
    classic = ["--classic"] if stack.path == "classic" else []
    start = time.monotonic()
    again = stack.command("serve_local.sh", "--detach", f"--port={stack.port}", *classic)
    assert again.returncode == 0, again.stderr
    assert "It is up already." in again.stdout
    assert f"http://127.0.0.1:{stack.port}/v1" in again.stdout
    assert time.monotonic() - start < 15


def test_another_model_on_the_same_port_is_refused(stack: Stack, tmp_path: Path) -> None:
    refused = stack.command("serve_local.sh", "--detach", f"--port={stack.port}", f"--model={tmp_path}")
    assert refused.returncode == 2
    assert "already serves gemma-3-270m" in refused.stderr


def test_taken_dashboard_port_is_refused(stack: Stack) -> None:
    (port,) = free_ports(1)
    refused = stack.command("serve_local.sh", "--detach", f"--port={port}", f"--dashboard-port={stack.dashboard_port}")
    assert refused.returncode == 2
    assert f"port {stack.dashboard_port} is taken" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_missing_model_directory_is_refused(stack: Stack) -> None:
    port, dashboard_port = free_ports(2)
    ports = [f"--port={port}", f"--dashboard-port={dashboard_port}"]
    refused = stack.command("serve_local.sh", "--detach", *ports, "--model=/no/such/model")
    assert refused.returncode == 2
    assert "no such directory" in refused.stderr
    preflight.check_port(port, "--port")
    preflight.check_port(dashboard_port, "--dashboard-port")


def test_no_network_is_said_in_one_line(stack: Stack) -> None:
    port, dashboard_port = free_ports(2)
    environment = {**stack.environment, "HF_ENDPOINT": "http://127.0.0.1:9"}  # nobody listens there
    command = [str(ROOT / "scripts" / "serve_local.sh"), f"--port={port}", f"--dashboard-port={dashboard_port}"]
    refused = subprocess.run([*command, "--model=some/model"], env=environment, capture_output=True, text=True, timeout=120)
    assert refused.returncode == 2, refused.stderr
    assert "some/model cannot be fetched from the hub" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_stop_leaves_no_process_and_no_port(stack: Stack, temp_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", stack.environment["XDG_STATE_HOME"])
    ours = own_processes(temp_dir)
    assert len(ours) > 10
    stopped = stack.command("stop_local.sh")
    assert stopped.returncode == 0, stopped.stderr
    assert [p for p in ours if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    for port in (stack.port, stack.dashboard_port):
        preflight.check_port(port, "--port")
    assert not temp_dir.exists()
    assert record.all_records() == []
    assert "nothing is running" in stack.command("stop_local.sh").stdout
    assert os.getpid() not in [p.pid for p in ours]

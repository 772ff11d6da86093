"""The servers that are compared: the bare one of each engine, and our whole stack around the same engine."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from apps.errors import OperationError
from apps.settings import inherited_environment
from apps.weights.cache import resolve_source

ROOT = Path(__file__).resolve().parents[2]
_START_DEADLINE_S = 300


@dataclass(frozen=True)
class Server:
    """`name` is `bare` or `ours`."""

    name: str
    url: str


def bare_command(llm_config: dict[str, Any], port: int) -> list[str]:
    """`python -m vllm.entrypoints.openai.api_server` with the engine arguments of a Serve config's model."""
    loading = llm_config["model_loading_config"]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", resolve_source(loading["model_source"]), "--served-model-name", loading["model_id"]]
    for key, value in llm_config["engine_kwargs"].items():
        flag = "--" + key.replace("_", "-")
        if key == "chat_template":
            value = ROOT / "apps" / "templates" / value
        command += [flag] if value is True else [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    return command


def llm_config_for(engine: str) -> dict[str, Any]:
    """The model's part of the Serve config that our stack deploys with an engine, `cpu` or `sim`."""
    from runtime_env.local import config, cpu

    if engine == "sim":
        served = config.load(config.EMULATED_CONFIG)
    else:
        served = config.with_dtype(config.load(config.LOCAL_CONFIG), cpu.best_dtype(cpu.flags()))
    return next(app["args"]["llm_configs"][0] for app in served["applications"] if "llm_configs" in app["args"])


@contextmanager
def our_stack(engine: str, *, classic: bool) -> Iterator[Server]:
    """Our stack for the block's time. Raises `OperationError` if it does not start."""
    port, dashboard_port = _two_free_ports()
    start, stop = (
        (["emulated_slice.sh"], ["emulated_slice.sh", "--stop"]) if engine == "sim" else (["serve_local.sh"], ["stop_local.sh"])
    )
    command = [str(ROOT / "scripts" / start[0]), "--detach", f"--port={port}", f"--dashboard-port={dashboard_port}"]
    if subprocess.run([*command, *(["--classic"] if classic else [])], stdout=subprocess.DEVNULL).returncode:
        raise OperationError(f"scripts/{start[0]} did not start; its message is above")
    try:
        yield Server("ours", f"http://127.0.0.1:{port}")
    finally:
        command = [str(ROOT / "scripts" / stop[0]), *stop[1:], f"--port={port}"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)


@contextmanager
def bare_server(engine: str, llm_config: dict[str, Any]) -> Iterator[tuple[Server, list[psutil.Process]]]:
    """The engine's own server for the block's time, and its processes. Raises `OperationError` if it does not start."""
    port, _ = _two_free_ports()
    if engine == "sim":
        command = [sys.executable, "-m", "benchmarks.overhead.bare_simulation", str(port)]
    else:
        command = bare_command(llm_config, port)
    environment = {
        **inherited_environment(),
        **llm_config["runtime_env"]["env_vars"],
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process)
            root = psutil.Process(process.pid)
            yield Server("bare", f"http://127.0.0.1:{port}"), [root, *root.children(recursive=True)]
        finally:
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_DEADLINE_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            httpx.get(url, timeout=5).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.5)
        else:
            return
    raise OperationError(f"the bare server was not healthy within {_START_DEADLINE_S} s")


def pause(processes: Sequence[psutil.Process], paused: bool) -> None:
    for process in processes:
        process.send_signal(signal.SIGSTOP if paused else signal.SIGCONT)


def _two_free_ports() -> tuple[int, int]:
    import socket

    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]

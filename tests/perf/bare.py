"""The servers that ours is compared with: an engine's own, as a process, without Ray."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from apps.checks.llm_rules import TEMPLATES
from apps.common.errors import OperationError
from apps.common.settings import inherited_environment
from apps.weights.cache import resolve_source
from emulation.hosts.preflight import free_ports

ROOT = Path(__file__).resolve().parents[2]
_START_DEADLINE_S = 300


@dataclass(frozen=True)
class Server:
    """A server that is measured; `name` is `bare` or the path of our stack."""

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
            value = TEMPLATES / value
        command += [flag] if value is True else [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    return command


@contextmanager
def bare_vllm(
    llm_config: dict[str, Any], more: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[tuple[Server, list[psutil.Process]]]:
    """vLLM's own server with `more` arguments and variables, and its processes.

    It computes on every core that it may use, as the stack does; by its own choice it would leave one of two idle.
    """
    (port,) = free_ports(1)
    variables = {
        **llm_config["runtime_env"]["env_vars"],
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(str(core) for core in sorted(os.sched_getaffinity(0))),
        **(environment or {}),
    }
    with running([*bare_command(llm_config, port), *more], port, variables) as server:
        yield server


@contextmanager
def running(command: Sequence[str], port: int, environment: Mapping[str, str]) -> Iterator[tuple[Server, list[psutil.Process]]]:
    """A server for the block's time, once it is healthy, and its processes. Raises `OperationError` if it does not start."""
    with tempfile.TemporaryFile() as log:
        variables = {**inherited_environment(), **environment}
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_for_health(f"http://127.0.0.1:{port}/health", process)
            root = psutil.Process(process.pid)
            yield Server("bare", f"http://127.0.0.1:{port}"), [root, *root.children(recursive=True)]
        finally:
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _wait_for_health(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Raises `OperationError` if the server ends, or is not healthy in time."""
    deadline = time.monotonic() + _START_DEADLINE_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            httpx.get(url, timeout=5).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.5)
        else:
            return
    raise OperationError(f"{url}: the server was not healthy within {_START_DEADLINE_S} s")


def pause(processes: Sequence[psutil.Process], paused: bool) -> None:
    """Stop processes where they are, or let them go on."""
    for process in processes:
        process.send_signal(signal.SIGSTOP if paused else signal.SIGCONT)

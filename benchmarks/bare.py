"""Bare vLLM on this CPU, as the benchmarks compare with it: the engine arguments of serve_configs/local.yaml, without Ray."""

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

from apps.errors import OperationError
from apps.settings import inherited_environment
from apps.weights.cache import resolve_source
from runtime_env.local.preflight import free_ports

ROOT = Path(__file__).resolve().parents[1]
_START_DEADLINE_S = 300


@dataclass(frozen=True)
class Server:
    """One that is measured."""

    name: str
    api_url: str


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


def served_llm_config() -> dict[str, Any]:
    """The model's part of serve_configs/local.yaml, as scripts/serve_local.sh deploys it on this CPU."""
    from runtime_env.local import config, cpu

    served = config.with_dtype(config.load(config.LOCAL_CONFIG), cpu.best_dtype(cpu.flags()))
    return next(app["args"]["llm_configs"][0] for app in served["applications"] if "llm_configs" in app["args"])


@contextmanager
def bare_server(
    llm_config: dict[str, Any], more: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[tuple[Server, list[psutil.Process]]]:
    """vLLM's own server with `more` arguments and variables, and its processes."""
    (port,) = free_ports(1)
    variables = {
        **inherited_environment(),
        **llm_config["runtime_env"]["env_vars"],
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        **(environment or {}),
    }
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*bare_command(llm_config, port), *more], cwd=ROOT, env=variables, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for_health(f"http://127.0.0.1:{port}/health", process)
            root = psutil.Process(process.pid)
            yield Server("bare", f"http://127.0.0.1:{port}/v1"), [root, *root.children(recursive=True)]
        finally:
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def wait_for_health(url: str, process: "subprocess.Popen[bytes]") -> None:
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

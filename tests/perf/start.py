"""Where the time of a start goes, and what the stack then takes: starts the laptop's stack several times and prints each phase.

    python -m tests.perf.start                three starts, one after the other; a table
    python -m tests.perf.start --runs 1 --json

The environment and the weights must be in place: the first start of all makes them.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from apps.common.command_line import reports_errors
from apps.common.errors import OperationError
from benchmarks.option_types import whole
from emulation.hosts import cpu, processes
from emulation.hosts.preflight import free_ports

ROOT = Path(__file__).resolve().parents[2]
_PHASE = re.compile(r"^ *\d+ s  (.*)$")
_SETTLE_S, _IDLE_S = 20, 10


@reports_errors()
def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.perf.start", description="Where the time of a start goes.")
    parser.add_argument("--runs", type=whole(1, 20), default=3, help="starts (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    machine = f"{psutil.cpu_count()} cores, {'' if 'avx512f' in cpu.flags() else 'no '}AVX-512, {platform.machine()}"
    load = [round(value, 1) for value in os.getloadavg()]
    result = {"machine": machine, "load_before": load, "runs": [_run() for _ in range(options.runs)]}
    print(json.dumps(result, indent=2) if options.json else _table(result))
    return 0


def _run() -> dict[str, Any]:
    """One start and stop: seconds by phase and in all, memory in GB and cores when idle."""
    port, dashboard_port = free_ports(2)
    with tempfile.TemporaryDirectory() as state:
        environment = {**os.environ, "XDG_STATE_HOME": state}
        start = [str(ROOT / "scripts" / "serve_local.sh"), "--detach", f"--port={port}", f"--dashboard-port={dashboard_port}"]
        try:
            phases = _phases(start, environment)
            stack = json.loads((Path(state) / "ray-tpu-serve" / "local" / f"{port}.json").read_text())
            living = processes.find([stack["session_id"]], Path(stack["temp_dir"]))
            memory = sum(process.memory_full_info().pss for process in living)
            time.sleep(_SETTLE_S)  # what a start leaves to be done is not idling
            before = _cpu_s(living)
            time.sleep(_IDLE_S)
            idle = (_cpu_s(living) - before) / _IDLE_S
        finally:
            stop = [str(ROOT / "scripts" / "stop_local.sh"), f"--port={port}"]
            subprocess.run(stop, env=environment, stdout=subprocess.DEVNULL, check=True, timeout=90)
    return {"ready_s": round(sum(phases.values()), 1), "phases_s": phases, "memory_gb": memory / 1e9, "idle_cores": idle}


def _phases(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Seconds of each phase that the start reports, with what comes before the first."""
    seconds: dict[str, float] = {}
    phase, since, lines = "checks", time.monotonic(), list[str]()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as starting:
        for line in starting.stderr or ():
            lines.append(line)
            if begins := _PHASE.match(line):
                now = time.monotonic()
                seconds[phase] = round(seconds.get(phase, 0) + now - since, 1)
                phase, since = begins[1], now
    if starting.returncode:
        raise OperationError(f"{command[0]} exited with {starting.returncode}: {''.join(lines[-3:]).strip()}")
    return {**seconds, phase: round(time.monotonic() - since, 1)}


def _cpu_s(living: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in living if process.is_running())


def _table(result: dict[str, Any]) -> str:
    runs = result["runs"]
    phases = dict.fromkeys(name for run in runs for name in run["phases_s"])
    rows = [(name, [run["phases_s"].get(name, 0.0) for run in runs]) for name in phases]
    rows += [("ready", [run["ready_s"] for run in runs]), ("memory, GB", [run["memory_gb"] for run in runs])]
    rows += [("idle, cores", [run["idle_cores"] for run in runs])]
    lines = [
        f"{name[:60]:60} {statistics.median(values):6.2f}   {'  '.join(f'{v:.2f}' for v in values)}" for name, values in rows
    ]
    heading = f"{result['machine']}, load before {result['load_before']}"
    return "\n".join([heading, f"{'seconds, where nothing else is named':60} median   each", *lines])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

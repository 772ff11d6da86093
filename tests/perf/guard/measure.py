"""Measure the guard: its own work by part, and the same servers with and without it in turns; print what was found."""

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from apps.common.settings import GUARD_VARIABLE
from emulation.hosts.preflight import free_ports
from tests.perf.bare import bare_vllm, pause, running
from tests.perf.guard.cost import AT_ONCE, open_settings, own_cost
from tests.perf.guard.load import Contender, Figures, Load, run
from tests.perf.guard.parts import by_part
from tests.perf.guard.server import MODEL
from tests.perf.overhead.servers import llm_config_for

_FULL_SPEED, _PACED = 1.0, 0.04  # shares of the roofline's speed: more than can be sent, and a quarter of that or so


def measure(options: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end too
    with tempfile.TemporaryDirectory() as directory:
        key, settings = open_settings(Path(directory))
        cost = {**own_cost(settings, key), "parts": by_part(settings, key)}
        rows = [] if options.own else _measure(options, key, {GUARD_VARIABLE: settings.model_dump_json()})
    if options.json:
        print(json.dumps({"cores": os.cpu_count(), "rounds": options.rounds, "own_cost": cost, "loads": rows}, indent=2))
    else:
        _print_table(rows, cost, options.rounds)


def _measure(options: argparse.Namespace, key: str, environment: dict[str, str]) -> list[dict[str, Any]]:
    loads: list[tuple[Load, Any]] = []
    if options.engine != "cpu":
        paced = Load("simulated, paced", options.streams, 2 * options.streams, 32, ramp_s=2)
        fast = Load("simulated, full speed", options.streams, 2 * options.streams, 128, timed=False)
        loads += [(paced, partial(_simulated, paced, _PACED)), (fast, partial(_simulated, fast, _FULL_SPEED))]
    if options.engine != "sim":
        loads.append((Load("vLLM on the CPU", 8, 16, 32), _vllm))
    rows = []
    for load, start in loads:
        with ExitStack() as stack:
            contenders = [stack.enter_context(start(env)) for env in ({}, environment)]
            rows.append(_compare(load, contenders, key, options.rounds))
    return rows


def _compare(load: Load, contenders: Sequence[Contender], key: str, rounds: int) -> dict[str, Any]:
    by_server: dict[bool, list[Figures]] = {False: [], True: []}
    for number in range(-1, rounds):  # round -1 warms both up and does not count
        for contender in contenders if number % 2 else reversed(contenders):
            for other in contenders:
                pause(other.processes, other is not contender)
            figures = asyncio.run(run(load, contender, key, seed=number + 1))
            turn = f"{load.name}, round {number + 1}, {'with' if contender.admission else 'without'}"
            print(f"{turn}: TTFT p99 {figures.ttft_p99_ms:.1f} ms, {figures.output_tok_per_s:.1f} tok/s", file=sys.stderr)
            if number >= 0:
                by_server[contender.admission].append(figures)
    for contender in contenders:
        pause(contender.processes, False)
    pairs = list(zip(by_server[False], by_server[True], strict=True))
    return {
        "load": asdict(load),
        "ttft_added_p50_ms": [after.ttft_p50_ms - before.ttft_p50_ms for before, after in pairs],
        "ttft_added_p99_ms": [after.ttft_p99_ms - before.ttft_p99_ms for before, after in pairs],
        "throughput_ratio": [after.output_tok_per_s / before.output_tok_per_s for before, after in pairs],
        "cpu_ratio": [before.cpu_us_per_token / after.cpu_us_per_token for before, after in pairs],
        "without": [asdict(figures) for figures in by_server[False]],
        "with": [asdict(figures) for figures in by_server[True]],
    }


@contextmanager
def _simulated(load: Load, efficiency: float, environment: dict[str, str]) -> Iterator[Contender]:
    (port,) = free_ports(1)
    around = "none" if not environment else "timed" if load.timed else "guard"
    command = [sys.executable, "-m", "tests.perf.guard.server", str(port), str(efficiency), around]
    with running(command, port, environment) as (server, processes):
        yield Contender(server, MODEL, processes, bool(environment))


@contextmanager
def _vllm(environment: dict[str, str]) -> Iterator[Contender]:
    config = llm_config_for("cpu")
    middleware = ["--middleware", "tests.perf.guard.stopwatch.Stopwatch"] if environment else []
    with bare_vllm(config, middleware, environment) as (server, processes):
        yield Contender(server, config["model_loading_config"]["model_id"], processes, bool(environment))


def _print_table(rows: Sequence[dict[str, Any]], cost: dict[str, Any], rounds: int) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=140)
    table = Table(title=f"{os.cpu_count()} cores, medians of {rounds} rounds")
    columns = ("load", "streams", "guard", "TTFT p50 ms", "TTFT p99 ms", "in guard p99 ms", "tok/s", "CPU us/token")
    for column in (*columns, "cores: server", "client"):
        table.add_column(column, justify="right")
    for row in rows:
        for guard in ("without", "with"):
            table.add_row(row["load"]["name"], str(row["load"]["streams"]), guard, *_cells(row[guard]))
    if rows:
        console.print(table)
    for row in rows:
        ratios = f"throughput {_spread(row['throughput_ratio'], 3)}, CPU per token {_spread(row['cpu_ratio'], 3)} of without"
        added = f"TTFT p50 {_spread(row['ttft_added_p50_ms'], 1)} ms, p99 {_spread(row['ttft_added_p99_ms'], 1)} ms added"
        console.print(f"{row['load']['name']}: {ratios}; {added}", highlight=False)
    parts = ", ".join(f"{name} {us:.1f}" for name, us in cost["parts"].items())
    own = f"{cost['request_us']:.0f} us for a request, {cost['token_us']:.2f} us for a token, {AT_ONCE} streams at once"
    console.print(f"The guard itself: {own}; by part, one after the other: {parts} us", highlight=False)


def _cells(figures: Sequence[dict[str, Any]]) -> Iterator[str]:
    names = (
        "ttft_p50_ms",
        "ttft_p99_ms",
        "in_guard_p99_ms",
        "output_tok_per_s",
        "cpu_us_per_token",
        "server_cores",
        "client_cores",
    )
    for name, digits in zip(names, (1, 1, 2, 0, 1, 2, 2), strict=True):
        values = [turn[name] for turn in figures]
        yield "" if None in values else f"{statistics.median(values):.{digits}f}"


def _spread(values: Sequence[float], digits: int) -> str:
    """The median of the rounds, and in brackets the least and the most."""
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"

"""What the guard costs: the same engine without and with it, both servers in one run, taking turns.

    python -m benchmarks.guard          the simulated engine at 512 streams, then vLLM on this CPU; prints a table
    python -m benchmarks.guard --json   one object with ttft_added_ms, throughput_ratio and every round's figures

The simulated engine is asked twice: as fast as this machine's HTTP server goes (throughput), and at a pace that leaves it time
(time to first token). The guard's part is measured in the server too, as the client's figures have the jitter of 512 streams in
them. Without the guard means none of its code at all.
"""

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
from pathlib import Path
from typing import Any

from apps.errors import BundleError
from apps.settings import GUARD_VARIABLE
from benchmarks.bare import bare_vllm, pause, running
from benchmarks.guard.cost import open_settings, own_cost
from benchmarks.guard.load import Contender, Figures, Load, run
from benchmarks.guard.server import MODEL
from benchmarks.overhead.servers import llm_config_for
from runtime_env.local.preflight import free_ports

_FULL_SPEED, _PACED = 1.0, 0.02  # shares of the roofline's speed: tokens at once, and every 100 ms or so


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end too
    with tempfile.TemporaryDirectory() as directory:
        try:
            key, settings = open_settings(Path(directory))
            cost = own_cost(settings, key)
            rows = _measure(options, key, {GUARD_VARIABLE: settings.model_dump_json()})
        except BundleError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
    if options.json:
        print(json.dumps({"cores": os.cpu_count(), "rounds": options.rounds, "own_cost": cost, "loads": rows}, indent=2))
    else:
        _print_table(rows, cost, options.rounds)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description="The guard against none, in one run.")
    parser.add_argument("--rounds", type=_positive, default=5, help="turns of each server (default: %(default)s)")
    parser.add_argument("--streams", type=_positive, default=512, help="of the simulated engine (default: %(default)s)")
    parser.add_argument("--engine", choices=("both", "sim", "cpu"), default="both", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1000")
    return int(text)


def _measure(options: argparse.Namespace, key: str, environment: dict[str, str]) -> list[dict[str, Any]]:
    loads: list[tuple[Load, Any]] = []
    if options.engine != "cpu":
        paced = Load("simulated, paced", options.streams, 2 * options.streams, 32, ramp_s=4)
        fast = Load("simulated, full speed", options.streams, 2 * options.streams, 64)
        loads += [(paced, lambda env: _simulated(_PACED, env)), (fast, lambda env: _simulated(_FULL_SPEED, env))]
    if options.engine != "sim":
        loads.append((Load("vLLM on the CPU", 8, 16, 32), _vllm))
    rows = []
    for load, start in loads:
        with ExitStack() as stack:
            contenders = [stack.enter_context(start(env)) for env in ({}, environment)]
            rows.append(_compare(load, contenders, key, options.rounds))
    return rows


def _compare(load: Load, contenders: Sequence[Contender], key: str, rounds: int) -> dict[str, Any]:
    found: dict[bool, list[Figures]] = {False: [], True: []}
    for number in range(-1, rounds):  # round -1 warms both up and does not count
        for one in contenders if number % 2 else reversed(contenders):
            for other in contenders:
                pause(other.processes, other is not one)
            figures = asyncio.run(run(load, one, key, seed=number + 1))
            if number >= 0:
                found[one.guarded].append(figures)
    for one in contenders:
        pause(one.processes, False)
    return {
        "load": asdict(load),
        "ttft_added_p50_ms": _median(found[True], "ttft_p50_ms") - _median(found[False], "ttft_p50_ms"),
        "ttft_added_p99_ms": _median(found[True], "ttft_p99_ms") - _median(found[False], "ttft_p99_ms"),
        "in_guard_p99_ms": _median(found[True], "in_guard_p99_ms"),
        "cpu_ratio": _median(found[False], "cpu_us_per_token") / _median(found[True], "cpu_us_per_token"),
        "throughput_ratio": _median(found[True], "output_tok_per_s") / _median(found[False], "output_tok_per_s"),
        "without": [asdict(one) for one in found[False]],
        "with": [asdict(one) for one in found[True]],
    }


def _median(figures: Sequence[Figures], name: str) -> Any:
    values = [getattr(one, name) for one in figures]
    return None if None in values else statistics.median(values)


@contextmanager
def _simulated(efficiency: float, environment: dict[str, str]) -> Iterator[Contender]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "benchmarks.guard.server", str(port), str(efficiency)]
    with running(command, port, environment) as (server, processes):
        yield Contender(server, MODEL, processes, bool(environment))


@contextmanager
def _vllm(environment: dict[str, str]) -> Iterator[Contender]:
    config = llm_config_for("cpu")
    middleware = ["--middleware", "apps.guard.Guard"] if environment else []
    with bare_vllm(config, middleware, environment) as (server, processes):
        yield Contender(server, config["model_loading_config"]["model_id"], processes, bool(environment))


def _print_table(rows: Sequence[dict[str, Any]], cost: dict[str, float], rounds: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{os.cpu_count()} cores, medians of {rounds} rounds")
    for column in (
        "load",
        "streams",
        "guard",
        "TTFT p50 ms",
        "TTFT p99 ms",
        "in guard p99 ms",
        "output tok/s",
        "ratio",
        "CPU us/token",
        "ratio",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        for guard in ("without", "with"):
            figures = [Figures(**one) for one in row[guard]]
            inside = _median(figures, "in_guard_p99_ms")
            cells = [f"{_median(figures, name):.1f}" for name in ("ttft_p50_ms", "ttft_p99_ms")]
            cells += [f"{inside:.2f}" if inside is not None else "", f"{_median(figures, 'output_tok_per_s'):.0f}"]
            ratios = [f"{row[name]:.3f}" if guard == "with" else "" for name in ("throughput_ratio", "cpu_ratio")]
            cells += [ratios[0], f"{_median(figures, 'cpu_us_per_token'):.1f}", ratios[1]]
            table.add_row(row["load"]["name"], str(row["load"]["streams"]), guard, *cells)
    console = Console(width=140)
    console.print(table)
    console.print(f"The guard itself: {cost['request_us']:.0f} us for a request, {cost['token_us']:.2f} us for a token")


if __name__ == "__main__":
    sys.exit(main())

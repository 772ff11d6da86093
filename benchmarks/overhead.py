"""What our stack costs over bare vLLM: the same engine arguments, the same load, both servers in one run, taking turns.

    python -m benchmarks.overhead          starts both, prints a table
    python -m benchmarks.overhead --json   one object with ttft_added_ms, throughput_ratio and every round's figures

While one server is measured the other is idle: bare vLLM is paused, our stack is not (Ray's heartbeats would stop), which
costs bare vLLM the little that our idle stack uses; that is measured too and printed.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from apps.errors import BundleError, OperationError
from benchmarks.bare import ROOT, Server, bare_server, pause, served_llm_config
from benchmarks.streaming import LoadFigures, prompts, run_load
from runtime_env.local.preflight import free_ports


@dataclass(frozen=True)
class Plan:
    """How much load: per round and server, `requests` one after another and `requests_8` from eight clients."""

    rounds: int
    requests: int
    requests_8: int
    prompt_words: int
    max_tokens: int


def compare(bare: Sequence[LoadFigures], ours: Sequence[LoadFigures]) -> dict[str, float]:
    """The two figures that count, from medians over the rounds."""
    return {
        "ttft_added_ms": _median(ours, 1, "ttft_p50_ms") - _median(bare, 1, "ttft_p50_ms"),
        "throughput_ratio": _median(ours, 8, "output_tok_per_s") / _median(bare, 8, "output_tok_per_s"),
    }


def _median(figures: Sequence[LoadFigures], clients: int, name: str) -> float:
    return statistics.median(getattr(f, name) for f in figures if f.clients == clients)


def main(argv: Sequence[str] | None = None) -> int:
    options = _parse(argv)
    plan = Plan(options.rounds, options.requests, 8 * options.requests_per_client, 48, 32)
    try:
        result = _measure(plan, classic=options.classic)
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        _print_table(result)
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead", description="Our stack against bare vLLM, in one run."
    )
    parser.add_argument("--rounds", type=_positive, default=3, help="turns of each server (default: %(default)s)")
    parser.add_argument("--requests", type=_positive, default=8, help="per round, one client (default: %(default)s)")
    parser.add_argument(
        "--requests-per-client", type=_positive, default=2, help="per round, eight clients (default: %(default)s)"
    )
    parser.add_argument(
        "--classic", action="store_true", help="measure Ray Serve's default ingress instead of direct streaming"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1000")
    return int(text)


def _measure(plan: Plan, *, classic: bool) -> dict[str, Any]:
    llm_config = served_llm_config()
    model = llm_config["model_loading_config"]["model_id"]
    with _our_stack(classic=classic) as ours, bare_server(llm_config) as (bare, processes):
        rounds: dict[str, list[LoadFigures]] = {"bare": [], "ours": []}
        idle_cores = _idle_cores(processes)
        for number in range(-1, plan.rounds):  # round -1 warms both up and does not count
            for server in (bare, ours) if number % 2 else (ours, bare):
                pause(processes, server is ours)
                figures = _one_round(server, model, plan, seed=2 * number + (server is ours))
                if number >= 0:
                    rounds[server.name] += figures
        pause(processes, False)
    return {
        **compare(rounds["bare"], rounds["ours"]),
        "path": "classic" if classic else "direct",
        "cores": os.cpu_count(),
        "idle_cores_used_by_our_stack": idle_cores,
        "plan": asdict(plan),
        "rounds": {name: [asdict(f) for f in figures] for name, figures in rounds.items()},
    }


def _one_round(server: Server, model: str, plan: Plan, seed: int) -> list[LoadFigures]:
    loads = [(1, plan.requests), (8, plan.requests_8)]
    return [
        asyncio.run(
            run_load(server.api_url, model, prompts(count, plan.prompt_words, 100 * seed + clients), clients, plan.max_tokens)
        )
        for clients, count in loads
    ]


@contextmanager
def _our_stack(*, classic: bool) -> Iterator[Server]:
    port, dashboard_port = free_ports(2)
    command = [str(ROOT / "scripts" / "serve_local.sh"), "--detach", f"--port={port}", f"--dashboard-port={dashboard_port}"]
    if subprocess.run([*command, *(["--classic"] if classic else [])], stdout=subprocess.DEVNULL).returncode:
        raise OperationError("scripts/serve_local.sh did not start; its message is above")
    try:
        yield Server("ours", f"http://127.0.0.1:{port}/v1")
    finally:
        subprocess.run([str(ROOT / "scripts" / "stop_local.sh"), f"--port={port}"], stdout=subprocess.DEVNULL, check=False)


def _idle_cores(bare: Sequence[psutil.Process], seconds: float = 10) -> float:
    """Cores that this machine uses while nobody asks anything and bare vLLM is paused: our stack's idling."""
    pause(bare, True)
    used = psutil.cpu_percent(interval=seconds) / 100 * (psutil.cpu_count() or 1)
    pause(bare, False)
    return round(used, 2)


def _print_table(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result['path']} path, {result['cores']} cores, median of {result['plan']['rounds']} rounds")
    for column in ("server", "clients", "TTFT p50 ms", "TTFT p99 ms", "ITL p50 ms", "output tok/s"):
        table.add_column(column, justify="right")
    names = ("ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "output_tok_per_s")
    for server, figures in result["rounds"].items():
        rounds = [LoadFigures(**f) for f in figures]
        for clients in (1, 8):
            table.add_row(server, str(clients), *(f"{_median(rounds, clients, name):.1f}" for name in names))
    console = Console()
    console.print(table)
    console.print(f"TTFT added at one client: {result['ttft_added_ms']:+.1f} ms (goal: at most +10)")
    console.print(f"Throughput at eight clients: {result['throughput_ratio']:.2f} of bare vLLM (goal: at least 0.90)")
    console.print(f"Our stack uses {result['idle_cores_used_by_our_stack']} cores when idle")


if __name__ == "__main__":
    sys.exit(main())

"""What our stack costs over a bare server: the same engine arguments, the same load, both in one run, taking turns.

    python -m benchmarks.overhead                against bare vLLM on this CPU; prints a table
    python -m benchmarks.overhead --engine sim   the simulated engine, bare and on the emulated slice, 1 to 1024 streams
    python -m benchmarks.overhead --json         one object with ttft_added_ms, throughput_ratio and every round's figures

While one server is measured the other is idle: the bare one is paused, our stack is not (Ray's heartbeats would stop), which
costs the bare one the little that our idle stack uses; that is measured too and printed.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import psutil

from apps.errors import BundleError
from apps.weights.cache import resolve_source
from benchmarks.bare import Server, pause
from benchmarks.overhead.rounds import LoadFigures, Plan, Rounds, compare, median
from benchmarks.overhead.servers import bare_server, llm_config_for, our_stack
from benchmarks.serving.words import FileTokenizer, Tokenizer, tokenizer_for

_SIM_CLIENTS = (1, 8, 64, 256, 1024)


def main(argv: Sequence[str] | None = None) -> int:
    options = _parse(argv)
    try:
        result = _measure(options.engine, _plan(options), classic=options.classic)
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
        prog="python -m benchmarks.overhead", description="Our stack against the bare server of the same engine, in one run."
    )
    parser.add_argument(
        "--engine", choices=("cpu", "sim"), default="cpu", help="real vLLM, or simulated (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=_positive, default=3, help="turns of each server (default: %(default)s)")
    parser.add_argument("--requests", type=_positive, default=8, help="per round, one client (default: %(default)s)")
    parser.add_argument(
        "--requests-per-client", type=_positive, default=2, help="per round, more clients (default: %(default)s)"
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


def _plan(options: argparse.Namespace) -> Plan:
    clients = _SIM_CLIENTS if options.engine == "sim" else (1, 8)
    requests = {count: options.requests if count == 1 else count * options.requests_per_client for count in clients}
    return Plan(options.rounds, requests, prompt_tokens=48, output_tokens=32)


def _measure(engine: str, plan: Plan, *, classic: bool) -> dict[str, Any]:
    llm_config = llm_config_for(engine)
    model = llm_config["model_loading_config"]["model_id"]
    with our_stack(engine, classic=classic) as ours, bare_server(engine, llm_config) as (bare, processes):
        rounds: dict[str, list[LoadFigures]] = {"bare": [], "ours": []}
        idle_cores = _idle_cores(processes)
        load = Rounds(model, plan, _tokenizer(engine, llm_config, bare))
        for number in range(-1, plan.rounds):  # round -1 warms both up and does not count
            for server in (bare, ours) if number % 2 else (ours, bare):
                pause(processes, server is ours)
                figures = load.one(server)
                if number >= 0:
                    rounds[server.name] += figures
        pause(processes, False)
    return {
        **compare(rounds["bare"], rounds["ours"]),
        "engine": engine,
        "path": "classic" if classic else "direct",
        "cores": os.cpu_count(),
        "idle_cores_used_by_our_stack": idle_cores,
        "plan": asdict(plan),
        "rounds": {name: [asdict(f) for f in figures] for name, figures in rounds.items()},
    }


def _tokenizer(engine: str, llm_config: dict[str, Any], bare: Server) -> Tokenizer:
    """The model's own; the simulated engine cuts text in its own way."""
    if engine == "sim":
        return tokenizer_for(bare.url, llm_config["model_loading_config"]["model_id"], {}, None)
    return FileTokenizer(resolve_source(llm_config["model_loading_config"]["model_source"]))


def _idle_cores(bare: Sequence[psutil.Process], seconds: float = 10) -> float:
    """Cores that this machine uses while nobody asks anything and the bare server is paused: our stack's idling."""
    pause(bare, True)
    used = psutil.cpu_percent(interval=seconds) / 100 * (psutil.cpu_count() or 1)
    pause(bare, False)
    return round(used, 2)


def _print_table(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    names = ("ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "output_tok_per_s")
    title = f"{result['engine']} engine, {result['path']} path, {result['cores']} cores, {result['plan']['rounds']} rounds"
    table = Table(title=f"{title}, medians")
    for column in ("clients", "server", "TTFT p50 ms", "TTFT p99 ms", "ITL p50 ms", "output tok/s", "errors"):
        table.add_column(column, justify="right")
    rounds = {server: [LoadFigures(**figure) for figure in figures] for server, figures in result["rounds"].items()}
    for clients in result["plan"]["requests"]:
        for server, figures in rounds.items():
            errors = sum(figure.errors for figure in figures if figure.clients == clients)
            table.add_row(str(clients), server, *(f"{median(figures, clients, name):.1f}" for name in names), str(errors))
        ratios = [median(rounds["ours"], clients, name) / median(rounds["bare"], clients, name) for name in names]
        table.add_row(str(clients), "ratio", *(f"{ratio:.2f}" for ratio in ratios), "", end_section=True)
    console = Console()
    console.print(table)
    console.print(f"TTFT added at one client: {result['ttft_added_ms']:+.1f} ms (goal: at most +10)")
    console.print(f"Throughput at eight clients: {result['throughput_ratio']:.2f} of the bare server (goal: at least 0.90)")
    console.print(f"Our stack uses {result['idle_cores_used_by_our_stack']} cores when idle")


if __name__ == "__main__":
    sys.exit(main())

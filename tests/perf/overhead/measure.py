"""Measure our stack by its paths in turns with the bare server, and print what was found."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import psutil

from apps.weights.cache import resolve_source
from benchmarks.serving.tokenizer import Tokenizer, file_tokenizer
from tests.perf.bare import pause
from tests.perf.overhead.rounds import SIMULATED_TOKENIZER, LoadFigures, Plan, Rounds, compare
from tests.perf.overhead.servers import bare_server, model_of, our_stack, serve_config_for
from tests.perf.overhead.table import print_table

_CLIENTS = {"cpu": (1, 8), "sim": (1, 64, 256, 1024)}


def measure(options: argparse.Namespace, paths: Sequence[str]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers are stopped then, too
    result = _measure(options.engine, _plan(options), paths)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print_table(result)


def _plan(options: argparse.Namespace) -> Plan:
    each = options.requests_per_client
    requests = {count: options.requests if count == 1 else count * each for count in _CLIENTS[options.engine]}
    return Plan(options.rounds, requests, prompt_tokens=48, output_tokens=32)


def _measure(engine: str, plan: Plan, paths: Sequence[str]) -> dict[str, Any]:
    serve_config = serve_config_for(engine, max(plan.requests) if engine == "sim" else None)
    llm_config = model_of(serve_config)
    load = Rounds(llm_config["model_loading_config"]["model_id"], plan, tokenizer_of(engine, llm_config))
    rounds: dict[str, list[LoadFigures]] = {"bare": []}
    idle_cores = {}
    for path in paths:
        rounds[path], idle_cores[path] = _in_turns(engine, serve_config, path, load, plan, rounds["bare"])
    return {
        "engine": engine,
        "cores": os.cpu_count(),
        "added": {path: compare(rounds["bare"], rounds[path]) for path in paths},
        "idle_cores": idle_cores,
        "plan": asdict(plan),
        "rounds": {name: [asdict(f) for f in figures] for name, figures in rounds.items()},
    }


def _in_turns(
    engine: str, serve_config: dict[str, Any], path: str, load: Rounds, plan: Plan, of_bare: list[LoadFigures]
) -> tuple[list[LoadFigures], float]:
    """All rounds of one path, and the cores that its stack uses when idle; those of the bare server go to `of_bare`."""
    of_ours: list[LoadFigures] = []
    with our_stack(engine, serve_config, path) as ours, bare_server(engine, model_of(serve_config)) as (bare, processes):
        idle = _idle_cores(processes)
        for number in range(-1, plan.rounds):  # round -1 warms both up and does not count
            for server in (bare, ours) if number % 2 else (ours, bare):
                pause(processes, server is ours)
                figures = load.run(server, warm_up=number < 0)
                _log(server.name, number, figures)
                if number >= 0:
                    (of_ours if server is ours else of_bare).extend(figures)
        pause(processes, False)
    return of_ours, idle


def _log(server: str, number: int, figures: Sequence[LoadFigures]) -> None:
    rates = ", ".join(f"{load.output_tok_per_s:,.0f} at {load.clients} ({load.errors} errors)" for load in figures)
    print(f"{server}, {f'round {number + 1}' if number >= 0 else 'warm-up'}: tok/s {rates}", file=sys.stderr)


def tokenizer_of(engine: str, llm_config: dict[str, Any]) -> Tokenizer:
    """In this process: of the two servers one is always paused, and would not answer."""
    if engine == "sim":
        return SIMULATED_TOKENIZER
    return file_tokenizer(resolve_source(llm_config["model_loading_config"]["model_source"]))


def _idle_cores(bare: Sequence[psutil.Process], seconds: float = 10) -> float:
    """Cores that this machine uses while nobody asks anything and the bare server is paused: our stack's idling."""
    pause(bare, True)
    used = psutil.cpu_percent(interval=seconds) / 100 * (psutil.cpu_count() or 1)
    pause(bare, False)
    return round(used, 2)

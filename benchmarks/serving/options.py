"""Options of `python -m benchmarks.serving`. Light to import, for `--help`."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from apps.common.option_types import add_server, check_server
from benchmarks.option_types import number, slo, whole
from benchmarks.serving.arrivals import PATTERNS
from benchmarks.serving.profiles import PROFILES

_DESCRIPTION = """Load an OpenAI-compatible server and measure it: TTFT, TPOT, ITL, E2E, throughput and goodput. Open-loop with
--rate, --trace or --sweep; closed-loop with --clients. Ends by itself. Through Ray, where the report takes the job's log:
ray job submit --working-dir . -- python -m benchmarks.serving --url http://127.0.0.1:8000 --profile chat --out -
`rts bench check FILE` says whether results can be true, also those of other tools."""
_CONFLICTS = (
    ("rate", "clients", ""),
    ("rate", "trace", ""),
    ("clients", "trace", ""),
    ("config", "dashboard", ""),
    ("trace", "dataset", "; a trace has its own lengths"),
)
_T = TypeVar("_T")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Exits with 2 and a message on bad options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=_DESCRIPTION)
    add_server(parser)
    _add_config(parser)
    _add_profile(parser)
    _add_load(parser)
    add = parser.add_argument_group("result").add_argument
    add(
        "--out",
        metavar="FILE",
        help="write the result here, and all requests' records beside it; also gs://bucket/folder/FILE, or - for lines on "
        "stdout, for a job's log",
    )
    add("--json", action="store_true", help="print the result instead of a table")
    options = parser.parse_args(argv)
    _check(parser, options)
    return options


def _add_config(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is served").add_argument
    add("--tokenizer", metavar="PATH", help="the model's directory or tokenizer.json (default: the server's /tokenize)")
    add("--config", type=Path, metavar="FILE", help="the deployed Serve config: goes into the result, and gives the limits")
    add("--dashboard", metavar="URL", help="ask this Ray dashboard for the Serve config instead")


def _add_profile(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("requests").add_argument
    add(
        "--profile",
        type=_profiles,
        default={"chat": 1.0},
        metavar="P[=WEIGHT][,...]",
        help=f"what is requested: {', '.join(PROFILES)}; several make a mixture (default: chat)",
    )
    add("--prompt-tokens", type=whole(4, 10**6), metavar="N", help="mean length, in place of the profile's")
    add("--output-tokens", type=whole(1, 10**5), metavar="N", help="length of answers, in place of the profile's")
    add(
        "--spread",
        type=number(0, 0.99),
        metavar="SHARE",
        help="vary the length of prompts by this share of the mean, 0 to 0.99",
    )
    add("--shared-prefix", type=whole(0, 10**6), metavar="N", help="tokens that begin all prompts (default: the profile's)")
    add("--prefix-groups", type=whole(1, 100_000), metavar="N", help="so many different beginnings of --shared-prefix")
    add("--turns", type=whole(1, 100), metavar="N", help="of each conversation (default: the profile's)")
    add("--cancel", type=number(0, 1), metavar="SHARE", help="hang up in the middle of so many answers, 0 to 1")
    add("--dataset", type=Path, metavar="FILE", help="prompts from here: ShareGPT's JSON, or JSONL with prompt or messages")
    add("--seed", type=whole(0, 2**32 - 1), help="of the prompts (default: a new one, as the same prompts would be cached)")


def _add_load(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("load").add_argument
    add("--rate", type=_list(number(0.001, 100_000)), metavar="R[,R...]", help="requests per second; one load for each")
    add("--clients", type=_list(whole(1, 10_000)), metavar="N[,N...]", help="clients with a request each; one load for each")
    add(
        "--trace",
        type=Path,
        metavar="FILE",
        help="send at these times, in these lengths: Mooncake's or OpenTelemetry's JSON lines, Azure's CSV, or a time per line",
    )
    add("--sweep", action="store_true", help="from --rate search for the highest rate within --slo")
    add("--arrivals", choices=PATTERNS, help="pattern of --rate (default: poisson)")
    add("--duration", type=number(0.1, 3600), metavar="S", help="of each load (default: 30, or the whole trace)")
    add("--requests", type=whole(1, 1_000_000), metavar="N", help="begin no more requests after so many, in each load")
    add(
        "--warmup",
        type=whole(0, 10_000),
        default=8,
        metavar="N",
        help="requests sent before, not counted (default: %(default)s)",
    )
    add("--repeat", type=whole(1, 100), default=1, metavar="N", help="all loads so often, in turns (default: %(default)s)")
    add("--processes", type=whole(1, 64), default=1, metavar="N", help="that share each load (default: %(default)s)")
    add("--timeout", type=number(0.1, 3600), default=120.0, metavar="S", help="for each request (default: %(default)s)")
    limits = slo("ttft", "tpot", "e2e")
    add("--slo", type=limits, default={}, metavar="ttft=1s,tpot=50ms", help="limits for goodput: ttft, tpot, e2e")


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    for first, second, reason in _CONFLICTS:
        if getattr(options, first) and getattr(options, second):
            parser.error(f"--{first} and --{second}: give one of them{reason}")
    if options.sweep and options.repeat > 1:
        parser.error("--sweep and --repeat: give one of them; a sweep measures its answer twice")
    if options.out == "-" and options.json:
        parser.error("--out - and --json: give one of them; --out - prints the result, too")
    if options.sweep and not (options.rate and len(options.rate) == 1 and options.slo):
        parser.error("--sweep needs one --rate to start from and an --slo to hold")
    if options.arrivals and not options.rate:
        parser.error("--arrivals needs --rate")
    check_server(parser, options)
    if options.trace:
        options.warmup = 0  # its rows are the load, each of them once
    elif options.duration is None:
        options.duration = 30.0
    if not options.rate and not options.trace:
        options.clients = options.clients or [8]


def _profiles(text: str) -> dict[str, float]:
    """Weights by name."""
    weights = {}
    for part in text.split(","):
        name, _, weight = part.partition("=")
        if name not in PROFILES:
            raise argparse.ArgumentTypeError(
                f"{name!r} is no profile: give some of {', '.join(PROFILES)}, such as chat=3,json=1"
            )
        weights[name] = number(0.001, 1000)(weight or "1")
    return weights


def _list(each: Callable[[str], _T]) -> Callable[[str], list[_T]]:
    return lambda text: [each(part) for part in text.split(",")]

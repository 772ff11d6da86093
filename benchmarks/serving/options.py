"""Options of `python -m benchmarks.serving`. Light to import: `--help` answers at once."""

import argparse
import ipaddress
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

_DESCRIPTION = """Load an OpenAI-compatible server and measure it: TTFT, TPOT, ITL, E2E, throughput and goodput. Open-loop with
--rate, --trace or --sweep; closed-loop with --clients. Ends by itself. Through Ray:
ray job submit --working-dir . -- python -m benchmarks.serving --url http://127.0.0.1:8000 --profile chat"""
_T = TypeVar("_T")
_SLO_UNITS = {"ms": 1.0, "s": 1000.0}
PROFILE_NAMES = ("chat", "completions", "multi-turn", "long-context", "json")
ARRIVALS = ("poisson", "constant", "bursts", "ramp")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Exits with 2 and a message on bad options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=_DESCRIPTION)
    add_server(parser)
    _add_config(parser)
    _add_profile(parser)
    _add_load(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result here, for benchmarks.report")
    parser.add_argument("--json", action="store_true", help="print the result instead of a table")
    found = parser.parse_args(argv)
    _check(parser, found)
    return found


def add_server(parser: argparse.ArgumentParser) -> None:
    """Which server; `check_server` looks at what was given."""
    add = parser.add_argument_group("server").add_argument
    add("--url", default="http://127.0.0.1:8000", help="where it is, without /v1 (default: %(default)s)")
    add("--allow-host", metavar="HOST", help="load this host; without it only this machine (loopback) is loaded")
    add("--model", help="its name there (default: the only one)")


def check_server(parser: argparse.ArgumentParser, found: argparse.Namespace) -> None:
    """End with a message on an address that is none, or of another host that was not allowed by name."""
    parts = urlsplit(found.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        parser.error(f"--url {found.url!r}: give for example http://127.0.0.1:8000")
    found.url = found.url.rstrip("/").removesuffix("/v1")
    if not _is_loopback(parts.hostname) and found.allow_host != parts.hostname:
        parser.error(f"--url: {parts.hostname} is not this machine: give --allow-host {parts.hostname} to load it on purpose")


def _add_config(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is served").add_argument
    add("--tokenizer", metavar="PATH", help="the model's directory or tokenizer.json (default: the server's /tokenize)")
    add(
        "--config",
        type=Path,
        metavar="FILE",
        help="the Serve config that is served: goes into the result, and gives the limits",
    )
    add("--dashboard", metavar="URL", help="ask this Ray dashboard for the Serve config instead")


def _add_profile(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("requests").add_argument
    add("--profile", choices=PROFILE_NAMES, default="chat", help="what is asked (default: %(default)s)")
    add("--prompt-tokens", type=_whole(4, 10**6), metavar="N", help="mean length, instead of the profile's")
    add("--output-tokens", type=_whole(1, 10**5), metavar="N", help="length of answers, instead of the profile's")
    add("--spread", type=_number(0, 0.99), metavar="SHARE", help="prompts are so much shorter and longer, 0 to 0.99")
    add(
        "--shared-prefix",
        type=_whole(0, 10**6),
        metavar="N",
        help="tokens that all prompts begin with (default: the profile's)",
    )
    add("--turns", type=_whole(1, 100), metavar="N", help="of each conversation (default: the profile's)")
    add("--dataset", type=Path, metavar="FILE", help="prompts from here: ShareGPT's JSON, or JSONL with prompt or messages")
    add(
        "--seed",
        type=_whole(0, 2**32 - 1),
        help="of the prompts (default: a new one, as the same prompts would be cached)",
    )


def _add_load(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("load").add_argument
    add("--rate", type=_list(_number(0.001, 100_000)), metavar="R[,R...]", help="requests per second; one load for each")
    add(
        "--clients",
        type=_list(_whole(1, 10_000)),
        metavar="N[,N...]",
        help="clients that wait for their answers; one load for each",
    )
    add("--trace", type=Path, metavar="FILE", help="send at these times: one per line, in seconds")
    add("--sweep", action="store_true", help="from --rate look for the highest rate within --slo")
    add("--arrivals", choices=ARRIVALS, help="of --rate (default: poisson)")
    add("--duration", type=_number(0.1, 3600), default=30.0, metavar="S", help="of each load (default: %(default)s)")
    add("--requests", type=_whole(1, 1_000_000), metavar="N", help="nothing new is begun in a load after so many")
    add("--warmup", type=_whole(0, 10_000), default=8, metavar="N", help="requests before, not counted (default: %(default)s)")
    add("--timeout", type=_number(0.1, 3600), default=120.0, metavar="S", help="for each request (default: %(default)s)")
    add("--slo", type=_slo, default={}, metavar="ttft=1s,tpot=50ms", help="limits for goodput: ttft, tpot, e2e")


def _check(parser: argparse.ArgumentParser, found: argparse.Namespace) -> None:
    kinds = [name for name in ("rate", "clients", "trace") if getattr(found, name)]
    if not kinds:
        found.clients = [8]
    if len(kinds) > 1:
        parser.error(f"--{kinds[0]} and --{kinds[1]}: give one of them")
    if found.sweep and not (found.rate and len(found.rate) == 1 and found.slo):
        parser.error("--sweep needs one --rate to start from and an --slo to hold")
    if found.arrivals and not found.rate:
        parser.error("--arrivals is of --rate, which is not given")
    if found.config and found.dashboard:
        parser.error("--config and --dashboard: give one of them")
    check_server(parser, found)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _slo(text: str) -> dict[str, float]:
    found = {}
    for part in text.split(","):
        match = re.fullmatch(r"(ttft|tpot|e2e)=(\d+(?:\.\d+)?)(ms|s)", part.strip())
        if not match:
            raise argparse.ArgumentTypeError(f"{part!r} is no limit: give for example ttft=1s,tpot=50ms,e2e=20s")
        name, value, unit = match.groups()
        found[f"{name}_ms"] = float(value) * _SLO_UNITS[unit]
    return found


def _number(least: float, most: float) -> Callable[[str], float]:
    def parse_number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least:g} to {most:g}")
        return value

    return parse_number


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse_whole(text: str) -> int:
        if not text.isdigit() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return parse_whole


def _list(each: Callable[[str], _T]) -> Callable[[str], list[_T]]:
    return lambda text: [each(part) for part in text.split(",")]

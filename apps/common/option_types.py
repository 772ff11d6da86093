"""Types of the commands' options for argparse, each with the message that a wrong value gets, and the options of a server."""

import argparse
import math
from collections.abc import Callable
from urllib.parse import urlsplit

from apps.common.loopback import is_loopback


def whole_number(text: str) -> int:
    """A whole number, 1 or more."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def seconds(text: str) -> float:
    """A finite number of seconds above 0."""
    return _finite(text, lambda number: number > 0, "a number of seconds above 0")


def factor(text: str) -> float:
    """A finite number, 1 or more."""
    return _finite(text, lambda number: number >= 1, "a number of 1 or more")


def port(text: str) -> int:
    """A port of this machine that needs no special rights."""
    if not text.isdigit() or not 1024 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port between 1024 and 65535")
    return int(text)


def url(text: str) -> str:
    """An HTTP(S) address with a host."""
    if not _host(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an address such as http://127.0.0.1:8265")
    return text


def add_server(parser: argparse.ArgumentParser, model: str = "the model's name there (default: the only one)") -> None:
    """Add the options that select a server of the OpenAI API, with the help of `--model`; `check_server` checks them."""
    add = parser.add_argument_group("server").add_argument
    add("--url", default="http://127.0.0.1:8000", help="its address, without /v1 (default: %(default)s)")
    add("--allow-host", metavar="HOST", help="send to this host; without it only to this machine (loopback)")
    add("--model", help=model)


def check_server(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with a message on an address that is malformed, or of another host that was not allowed by name."""
    host = _host(options.url)
    if not host:
        parser.error(f"--url {options.url!r}: give for example http://127.0.0.1:8000")
    options.url = options.url.rstrip("/").removesuffix("/v1")
    if not is_loopback(host) and options.allow_host != host:
        parser.error(f"--url: {host} is not this machine: give --allow-host {host} to send to it on purpose")


def _finite(text: str, is_allowed: Callable[[float], bool], what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or not is_allowed(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return number


def _host(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        return parts.hostname if parts.scheme in ("http", "https") and parts.port != 0 else None
    except ValueError:
        return None

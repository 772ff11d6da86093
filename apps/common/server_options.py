"""The options with which a command finds a server of the OpenAI API, and the rule that only this machine is sent to unasked."""

import argparse
from urllib.parse import urlsplit

from apps.common.loopback import is_loopback


def add_server(parser: argparse.ArgumentParser, model: str = "the model's name there (default: the only one)") -> None:
    """Add the options that select a server, with the help of `--model`; `check_server` checks their values."""
    add = parser.add_argument_group("server").add_argument
    add("--url", default="http://127.0.0.1:8000", help="its address, without /v1 (default: %(default)s)")
    add("--allow-host", metavar="HOST", help="send to this host; without it only to this machine (loopback)")
    add("--model", help=model)


def check_server(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with a message on an address that is malformed, or of another host that was not allowed by name."""
    try:
        parts = urlsplit(options.url)
        host = parts.hostname if parts.scheme in ("http", "https") and parts.port != 0 else None
    except ValueError:
        host = None
    if not host:
        parser.error(f"--url {options.url!r}: give for example http://127.0.0.1:8000")
    options.url = options.url.rstrip("/").removesuffix("/v1")
    if not is_loopback(host) and options.allow_host != host:
        parser.error(f"--url: {host} is not this machine: give --allow-host {host} to send to it on purpose")

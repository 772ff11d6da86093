"""Options of the local stack's commands. Standard library only: `--help` answers before anything is installed."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_PORT = 8000
DEFAULT_DASHBOARD_PORT = 8265


@dataclass(frozen=True)
class UpOptions:
    """`model` is None for the laptop's own Gemma 3 270M."""

    port: int
    dashboard_port: int
    model: str | None
    detach: bool
    classic: bool


@dataclass(frozen=True)
class DownOptions:
    """`port` is None where there is only one stack to stop."""

    port: int | None
    all: bool


def parse(argv: Sequence[str]) -> UpOptions | DownOptions:
    """Parse `up ...` or `down ...`. Exits with 2 and a message on bad options, with 0 after --help."""
    command = argv[0] if argv else ""
    if command == "up":
        return _parse_up(argv[1:])
    if command == "down":
        return _parse_down(argv[1:])
    raise SystemExit(f"error: {command!r}: expected up or down")


def _parse_up(argv: Sequence[str]) -> UpOptions:
    parser = argparse.ArgumentParser(
        prog="scripts/serve_local.sh",
        description="Serve Gemma 3 270M on this machine's CPU: OpenAI-compatible API, chat page, Ray dashboard. Loopback only.",
    )
    parser.add_argument("--port", type=_port, default=DEFAULT_PORT, help="port of API and chat (default: %(default)s)")
    parser.add_argument(
        "--dashboard-port", type=_port, default=DEFAULT_DASHBOARD_PORT, help="port of the Ray dashboard (default: %(default)s)"
    )
    parser.add_argument(
        "--model", metavar="PATH_OR_HF_ID", help="serve this model instead: a local directory or a Hugging Face id"
    )
    parser.add_argument(
        "--detach", action="store_true", help="return once a real answer can be had; stop with scripts/stop_local.sh"
    )
    parser.add_argument("--classic", action="store_true", help="use Ray Serve's default ingress instead of direct streaming")
    found = parser.parse_args(argv)
    if found.port == found.dashboard_port:
        parser.error(f"--port and --dashboard-port are both {found.port}: give two different ports")
    return UpOptions(found.port, found.dashboard_port, found.model, found.detach, found.classic)


def _parse_down(argv: Sequence[str]) -> DownOptions:
    parser = argparse.ArgumentParser(
        prog="scripts/stop_local.sh", description="Stop what scripts/serve_local.sh --detach started, and nothing else."
    )
    parser.add_argument("--port", type=_port, help="stop the stack on this port (needed only if several run)")
    parser.add_argument("--all", action="store_true", help="stop every local stack of this user")
    found = parser.parse_args(argv)
    return DownOptions(found.port, found.all)


def _port(text: str) -> int:
    if not text.isdigit() or not 1024 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port between 1024 and 65535")
    return int(text)

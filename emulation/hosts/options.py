"""Options of the local stack's commands. Standard library only: `--help` works before anything is installed."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass

from apps.common.option_types import port

DEFAULT_PORT = 8000
DEFAULT_DASHBOARD_PORT = 8265
HEAD = "head"
"""Name of the head among the hosts."""


@dataclass(frozen=True)
class UpOptions:
    """`model` is None for the laptop's own Gemma 3 270M. With an `engine` it is served on emulated slices."""

    port: int
    dashboard_port: int
    model: str | None
    detach: bool
    classic: bool
    engine: str | None = None
    slices: int = 0
    absent: tuple[str, ...] = ()
    """Hosts that are not started, as `slice-a/2`."""
    keys: str | None = None
    """Keys file; None serves without keys."""
    redis: str | None = None
    """HOST:PORT of the Redis with the head's state; None keeps it in the head alone."""
    config: str | None = None
    """Serve config to deploy instead of the one in serve_configs/."""


@dataclass(frozen=True)
class DownOptions:
    """`port` may be None where there is only one stack to stop."""

    port: int | None
    all: bool


@dataclass(frozen=True)
class HostOptions:
    """Kill or start one emulated host, or the head, of the stack on a port."""

    port: int
    host: str
    start: bool


def parse(argv: Sequence[str]) -> UpOptions | DownOptions | HostOptions:
    """Parse `up ...`, `down ...` or `slice ...`. Exits with 2 and a message on bad options, with 0 after --help."""
    command = argv[0] if argv else ""
    if command == "up":
        return _parse_up(argv[1:])
    if command == "down":
        return _parse_down(argv[1:])
    if command == "slice":
        return _parse_slice(argv[1:])
    raise SystemExit(f"error: {command!r}: expected up, down or slice")


def _parse_up(argv: Sequence[str]) -> UpOptions:
    parser = argparse.ArgumentParser(
        prog="scripts/serve_local.sh",
        description="Serve Gemma 3 270M on this machine's CPU: OpenAI-compatible API, chat page, Ray dashboard. Loopback only.",
    )
    parser.add_argument(
        "--model", metavar="PATH_OR_HF_ID", help="serve this model instead: a local directory or a Hugging Face id"
    )
    _add_common(parser)
    parsed = parser.parse_args(argv)
    _check_ports(parser, parsed)
    common = (parsed.port, parsed.dashboard_port, parsed.model, parsed.detach, parsed.classic)
    return UpOptions(*common, keys=parsed.keys, config=parsed.config)


def _parse_slice(argv: Sequence[str]) -> UpOptions | HostOptions:
    parser = argparse.ArgumentParser(
        prog="scripts/emulated_slice.sh",
        description="Serve on TPU v6e 4x4 slices that are emulated on this machine: a Ray node for each host, with Ray's own "
        "labels, reservation and placement. Loopback only.",
    )
    parser.add_argument(
        "--engine",
        choices=["sim", "cpu", "tpu"],
        default="sim",
        help="sim: no model, responses at the slice's speed; cpu: Gemma 3 270M computed by vLLM; tpu: the slice's own engine, "
        "vLLM TPU, computes a small model of Gemma 4's architecture on the CPU (default: %(default)s)",
    )
    parser.add_argument("--slices", type=int, choices=range(1, 5), default=1, help="how many slices (default: %(default)s)")
    _add_common(parser)
    parser.add_argument(
        "--redis", metavar="HOST:PORT", help="keep the head's state in this Redis, so that apps outlive the head"
    )
    parser.add_argument("--absent", metavar="SLICE/HOST", action="append", default=[], help="do not start this host")
    act = parser.add_mutually_exclusive_group()
    act.add_argument("--kill-host", metavar="SLICE/HOST", help="kill a host of a running stack: slice-a/2, or head")
    act.add_argument("--start-host", metavar="SLICE/HOST", help="start that host again")
    parsed = parser.parse_args(argv)
    _check_ports(parser, parsed)
    for host in [*parsed.absent, parsed.kill_host, parsed.start_host]:
        if host and not re.fullmatch(r"slice-[a-d]/[0-3]", host) and (host != HEAD or HEAD in parsed.absent):
            parser.error(f"{host!r} is not a host: give one such as slice-a/2 (slices a to d, hosts 0 to 3)")
    known = [f"slice-{letter}" for letter in "abcd"[: parsed.slices]]
    if unknown := [host for host in parsed.absent if host.partition("/")[0] not in known]:
        parser.error(f"--absent: {unknown[0]} is not one of the {parsed.slices} slices ({', '.join(known)})")
    if parsed.redis and not re.fullmatch(r"[\w.-]+:\d+", parsed.redis):
        parser.error(f"--redis: {parsed.redis!r} is not HOST:PORT")
    if host := parsed.kill_host or parsed.start_host:
        return HostOptions(parsed.port, host, start=bool(parsed.start_host))
    common = (parsed.port, parsed.dashboard_port, None, parsed.detach, parsed.classic)
    return UpOptions(
        *common,
        engine=parsed.engine,
        slices=parsed.slices,
        absent=tuple(parsed.absent),
        keys=parsed.keys,
        redis=parsed.redis,
        config=parsed.config,
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=port, default=DEFAULT_PORT, help="port of API and chat (default: %(default)s)")
    parser.add_argument(
        "--dashboard-port", type=port, default=DEFAULT_DASHBOARD_PORT, help="port of the Ray dashboard (default: %(default)s)"
    )
    parser.add_argument(
        "--detach",
        action="store_true",
        help="return once the server has answered a test request; stop it with scripts/stop_local.sh",
    )
    parser.add_argument("--config", metavar="F", help="Serve config to deploy (default: the command's own in serve_configs/)")
    parser.add_argument("--keys", metavar="F", help="require keys from this file, made by scripts/keys.py (default: no keys)")
    parser.add_argument("--classic", action="store_true", help="use Ray Serve's default ingress instead of direct streaming")


def _check_ports(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    if parsed.port == parsed.dashboard_port:
        parser.error(f"--port and --dashboard-port are both {parsed.port}: give two different ports")


def _parse_down(argv: Sequence[str]) -> DownOptions:
    parser = argparse.ArgumentParser(
        prog="scripts/stop_local.sh",
        description="Stop what scripts/serve_local.sh or emulated_slice.sh has started, and nothing else.",
    )
    parser.add_argument("--port", type=port, help="stop the stack on this port (needed only if several run)")
    parser.add_argument("--all", action="store_true", help="stop every local stack of this user")
    parsed = parser.parse_args(argv)
    return DownOptions(parsed.port, parsed.all)

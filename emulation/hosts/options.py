"""Options of the local stack's commands. Standard library only: `--help` answers before anything is installed."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass

from apps.common.option_types import port

DEFAULT_PORT = 8000
DEFAULT_DASHBOARD_PORT = 8265
HEAD = "head"
"""The head's name among the hosts."""


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
    """HOST:PORT where the head keeps its state; None keeps it in the head alone."""
    config: str | None = None
    """Serve config that is deployed instead of the one in serve_configs/."""


@dataclass(frozen=True)
class DownOptions:
    """`port` is None where there is only one stack to stop."""

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
    _add_common(parser, stop="scripts/stop_local.sh")
    found = parser.parse_args(argv)
    _check_ports(parser, found)
    common = (found.port, found.dashboard_port, found.model, found.detach, found.classic)
    return UpOptions(*common, keys=found.keys, config=found.config)


def _parse_slice(argv: Sequence[str]) -> UpOptions | DownOptions | HostOptions:
    parser = argparse.ArgumentParser(
        prog="scripts/emulated_slice.sh",
        description="Serve on TPU v6e 4x4 slices that are emulated on this machine: a Ray node for each host, with Ray's own "
        "labels, reservation and placement. Loopback only.",
    )
    parser.add_argument(
        "--engine",
        choices=["sim", "cpu"],
        default="sim",
        help="sim: no model, answers in the slice's time; cpu: Gemma 3 270M computed by vLLM (default: %(default)s)",
    )
    parser.add_argument("--slices", type=int, choices=range(1, 5), default=1, help="how many slices (default: %(default)s)")
    _add_common(parser, stop="--stop")
    parser.add_argument("--redis", metavar="HOST:PORT", help="keep the head's state there, so that apps outlive the head")
    parser.add_argument("--absent", metavar="SLICE/HOST", action="append", default=[], help="do not start this host")
    act = parser.add_mutually_exclusive_group()
    act.add_argument("--stop", action="store_true", help="stop the stack on --port")
    act.add_argument("--kill-host", metavar="SLICE/HOST", help="let a host of a running stack die: slice-a/2, or head")
    act.add_argument("--start-host", metavar="SLICE/HOST", help="let that host come back")
    found = parser.parse_args(argv)
    _check_ports(parser, found)
    for host in [*found.absent, found.kill_host, found.start_host]:
        if host and not re.fullmatch(r"slice-[a-d]/[0-3]", host) and (host != HEAD or HEAD in found.absent):
            parser.error(f"{host!r} is no host: give for example slice-a/2 (slices a to d, hosts 0 to 3)")
    known = [f"slice-{letter}" for letter in "abcd"[: found.slices]]
    if unknown := [host for host in found.absent if host.partition("/")[0] not in known]:
        parser.error(f"--absent: {unknown[0]} is not one of the {found.slices} slices ({', '.join(known)})")
    if found.redis and not re.fullmatch(r"[\w.-]+:\d+", found.redis):
        parser.error(f"--redis: {found.redis!r} is no HOST:PORT")
    if found.stop:
        return DownOptions(found.port, all=False)
    if host := found.kill_host or found.start_host:
        return HostOptions(found.port, host, start=bool(found.start_host))
    common = (found.port, found.dashboard_port, None, found.detach, found.classic)
    return UpOptions(
        *common,
        engine=found.engine,
        slices=found.slices,
        absent=tuple(found.absent),
        keys=found.keys,
        redis=found.redis,
        config=found.config,
    )


def _add_common(parser: argparse.ArgumentParser, stop: str) -> None:
    parser.add_argument("--port", type=port, default=DEFAULT_PORT, help="port of API and chat (default: %(default)s)")
    parser.add_argument(
        "--dashboard-port", type=port, default=DEFAULT_DASHBOARD_PORT, help="port of the Ray dashboard (default: %(default)s)"
    )
    parser.add_argument(
        "--detach", action="store_true", help=f"return once the server has answered a test request; stop with {stop}"
    )
    parser.add_argument("--config", metavar="F", help="Serve config to deploy (default: this one's own in serve_configs/)")
    parser.add_argument("--keys", metavar="F", help="ask for keys of this file, made by scripts/keys.py (default: no keys)")
    parser.add_argument("--classic", action="store_true", help="use Ray Serve's default ingress instead of direct streaming")


def _check_ports(parser: argparse.ArgumentParser, found: argparse.Namespace) -> None:
    if found.port == found.dashboard_port:
        parser.error(f"--port and --dashboard-port are both {found.port}: give two different ports")


def _parse_down(argv: Sequence[str]) -> DownOptions:
    parser = argparse.ArgumentParser(
        prog="scripts/stop_local.sh", description="Stop what scripts/serve_local.sh --detach started, and nothing else."
    )
    parser.add_argument("--port", type=port, help="stop the stack on this port (needed only if several run)")
    parser.add_argument("--all", action="store_true", help="stop every local stack of this user")
    found = parser.parse_args(argv)
    return DownOptions(found.port, found.all)

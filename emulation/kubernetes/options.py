"""Options of `scripts/control_plane.sh`. Standard library only: `--help` answers before anything is installed."""

import argparse
from collections.abc import Sequence


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command and its options. Exits with 2 and a message on bad ones, with 0 after --help."""
    parser = argparse.ArgumentParser(
        prog="scripts/control_plane.sh",
        description="A real Kubernetes control plane with the real KubeRay operator on this machine, and an "
        "emulated TPU slice. Loopback only. docs/control_plane.md lists what is real.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("build", help="build the programs from Go modules, once (minutes; needs Go and a module proxy)")
    up = commands.add_parser("up", help="start it, and wait until it is ready; Ctrl-C stops it")
    up.add_argument("--port", type=_port, help="port of the API server (default: a free one)")
    up.add_argument("--detach", action="store_true", help="return once it is ready; `down` stops it")
    up.add_argument(
        "--nodes",
        choices=("none", "emulated", "running"),
        default="emulated",
        help="emulated: pods become Ready and nothing runs in them; running: their commands run on this machine, each pod with "
        "an address of its own; none: pods stay Pending (default: %(default)s)",
    )
    up.add_argument("--topology", default="4x4", metavar="AxB", help="of the slice (default: %(default)s)")
    up.add_argument("--with-process", type=int, metavar="PID", help="end when that process does")
    commands.add_parser("down", help="stop it, and remove all it kept")
    commands.add_parser("status", help="what runs, and what it takes").add_argument("--json", action="store_true")
    user = commands.add_parser("user", help="print a kubeconfig for a person without any rights but those that RBAC gives")
    user.add_argument("name", help="the user name that RBAC sees")
    user.add_argument("--group", action="append", default=[], help="a group of the user; may be repeated")
    return parser.parse_args(argv)


def _port(text: str) -> int:
    if not text.isdigit() or not 1024 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port between 1024 and 65535")
    return int(text)

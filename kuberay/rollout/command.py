"""`scripts/change.py`: its options. Heavy packages are imported only for an action."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from apps.common.command_line import reports_errors
from apps.common.option_types import seconds, url, whole_number


@reports_errors("stopped watching; Serve goes on with what it was given")
def main(argv: Sequence[str]) -> int:
    """Run a command. Exit codes: 0 done, 1 failed (apply: the old config runs again, if there was one), 2 bad input."""
    options = _parser().parse_args(argv)
    from kuberay.rollout.apply import run

    run(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/change.py",
        description="Change what a running Serve serves: see what it would do, do it, go back.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    words = {
        "plan": "show what a config would do, and change nothing",
        "apply": "deploy a config, and go back if it is not healthy in time",
        "rollback": "deploy the last other config that was healthy",
    }
    for name, what in words.items():
        command = commands.add_parser(name, help=what, description=what)
        if name == "rollback":
            command.set_defaults(alone=True)
        else:
            command.add_argument("config", metavar="CONFIG", type=Path, help="a Serve config, such as serve_configs/gemma.yaml")
            slices = "TPU slices that the cluster has (default: %(default)s)"
            command.add_argument("--slices", type=whole_number, default=1, help=slices)
            command.add_argument("--alone", action="store_true", help="remove the apps that this config does not name")
        cluster = "the cluster of this cluster.yaml, whose changes it keeps; in the place of --address"
        command.add_argument("--cluster", type=Path, metavar="SPEC", help=cluster)
        command.add_argument("--kubeconfig", metavar="FILE", help="with --cluster (default: KUBECONFIG, or ~/.kube/config)")
        command.add_argument("--context", help="with --cluster: of the kubeconfig (default: its current one)")
        address = "Ray's dashboard (default: %(default)s)"
        command.add_argument("-a", "--address", type=url, default="http://127.0.0.1:8265", metavar="URL", help=address)
        if name == "plan":
            command.add_argument("--json", action="store_true", help="one object for machines")
        else:
            longest = "longest wait (default: %(default).0f s)"
            command.add_argument("--timeout", type=seconds, default=3600.0, metavar="S", help=longest)
    return parser

"""`scripts/cluster.py`: its options, and which action each command is. Heavy packages are imported only for an action."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from apps.common.command_line import reports_errors
from apps.common.errors import UserError
from apps.common.option_types import port, seconds

_MINUTE_S = 60.0
_CHANGING = ("apply", "deploy", "park", "unpark", "down")


@reports_errors("stopped; what was done stays, and the same command goes on from there")
def main(argv: Sequence[str]) -> int:
    """Run a command. Exit codes: 0 done, 1 failed (doctor: something is wrong), 2 bad input."""
    options = _parser().parse_args(argv)
    if options.command == "render":
        _render(options)
        return 0
    module = import_module(f"kuberay.commands.{'change' if options.command in _CHANGING else 'inspect'}")
    return getattr(module, options.action)(options) or 0


def _render(options: argparse.Namespace) -> None:
    from kuberay.consistency import load_checked
    from kuberay.render import MADE_BY, kustomize_base, manifests, to_yaml

    wanted = load_checked(options.spec)
    for line in wanted.warnings:
        print(line, file=sys.stderr)
    if options.kustomize is None:
        print(to_yaml(manifests(wanted.spec, wanted.serve_text, options.part), options.spec.name), end="")
        return
    base = kustomize_base(wanted.spec, wanted.serve_text, options.part, options.spec.name)
    files = {options.kustomize / name: text for name, text in base.items()}
    if others := [str(file) for file in files if file.exists() and not file.read_text().startswith(MADE_BY)]:
        raise UserError(f"{', '.join(others)}: not made by this command: give another directory to --kustomize")
    options.kustomize.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        file.write_text(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/cluster.py",
        description="A RayCluster for a model on TPU slices, from one spec: a copy of one of kuberay/examples/.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, what: str, action: str | None = None) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument("spec", metavar="SPEC", type=Path, help="the cluster's spec, such as cluster.yaml")
        command.set_defaults(action=action or name)
        return command

    def connected(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
        command.add_argument("--kubeconfig", metavar="FILE", help="default: KUBECONFIG, or ~/.kube/config")
        command.add_argument("--context", help="of the kubeconfig (default: its current one)")
        command.add_argument(
            "--backend",
            choices=("kubernetes", "python_client"),
            default="kubernetes",
            help="client for the RayCluster: the official one, or KubeRay's own where it is installed (default: %(default)s)",
        )
        return command

    def with_part(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--part", choices=("platform", "workload"), help="only what an administrator gives, or only the rest"
        )

    def with_timeout(command: argparse.ArgumentParser, minutes: float) -> argparse.ArgumentParser:
        command.add_argument(
            "--timeout", type=seconds, default=minutes * _MINUTE_S, metavar="S", help="longest wait (default: %(default).0f s)"
        )
        return command

    render = add("render", "print the manifests; no cluster is asked")
    with_part(render)
    render.add_argument("--kustomize", metavar="DIR", type=Path, help="write a Kustomize base there, for Argo CD or Flux")
    for name, what in (("diff", "show what apply would change"), ("apply", "make the cluster what the spec describes")):
        command = connected(add(name, what))
        command.add_argument("--force", action="store_true", help="take over fields that somebody else has set")
        if name == "apply":
            command.add_argument("--dry-run", action="store_true", help="ask the API server, and change nothing")
            with_part(command)
            command.add_argument("--yes", action="store_true", help="also where it restarts running pods, or removes something")
    with_timeout(connected(add("wait", "follow until the head and all hosts are ready", "wait_for")), 45)
    connected(add("status", "what is there, what it waits for, which apps run")).add_argument("--json", action="store_true")
    deploy = with_timeout(connected(add("deploy", "deploy the Serve config and wait until its apps run", "deploy_apps")), 60)
    deploy.add_argument("serve_config", nargs="?", type=Path, help="another Serve config than the spec's")
    deploy.add_argument("--alone", action="store_true", help="remove the apps that this config does not name")
    deploy.add_argument("--last", action="store_true", help="deploy what was deployed last, after a lost head")
    logs = connected(add("logs", "print the log of the head, or of a host"))
    logs.add_argument("--host", type=int, metavar="N", help="of host N of the slice (default: of the head)")
    logs.add_argument("--follow", "-f", action="store_true", help="go on with new lines, until Ctrl-C")
    logs.add_argument("--tail", type=int, metavar="LINES", help="only so many of the last lines")
    forward = connected(add("forward", "API and dashboard on this machine, until Ctrl-C"))
    forward.add_argument("--port", type=port, default=8000, help="local port of the API (default: %(default)s)")
    forward.add_argument("--dashboard-port", type=port, default=8265, help="and of the dashboard (default: %(default)s)")
    with_timeout(connected(add("park", "give the TPU hosts back and keep the rest")), 10)
    with_timeout(connected(add("unpark", "bring the pods and the apps back")), 60)
    connected(add("doctor", "look for known troubles; changes nothing")).add_argument("--json", action="store_true")
    down = with_timeout(connected(add("down", "remove the deployment from the cluster")), 10)
    down.add_argument("--dry-run", action="store_true", help="list what would be deleted")
    return parser

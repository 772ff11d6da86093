"""`scripts/change.py`: what a new Serve config would do to what runs, and doing it with a way back."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.common.command_line import reports_errors
from apps.common.errors import OperationError, UserError
from apps.common.option_types import seconds, url, whole_number

if TYPE_CHECKING:
    from kuberay.dashboard import Dashboard
    from kuberay.rollout.effects import Effect, Kind
    from kuberay.rollout.history import History


@reports_errors("stopped watching; Serve goes on with what it was told")
def main(argv: Sequence[str]) -> int:
    """Exit codes: 0 done, 1 failed (apply: the old config runs again, if there was one), 2 bad input."""
    _run(_parser().parse_args(argv))
    return 0


def _run(options: argparse.Namespace) -> None:
    from apps.common.settings import ray_token, state_root
    from kuberay.dashboard import Dashboard
    from kuberay.deploy import merged
    from kuberay.rollout.carry_out import today
    from kuberay.rollout.history import History

    config = _checked(options) if options.command != "rollback" else None
    dashboard = Dashboard(options.address.rstrip("/"), ray_token())
    history = History.of(state_root(), dashboard.url)
    serve = dashboard.serve()
    now = today(serve)
    if config is None:
        config = history.before(now)
        if config is None:
            raise UserError("there is no other config to go back to: none was healthy under this tool before the one that runs")
    _act(options, dashboard, history, now, config if options.alone else merged(config, serve))


def _act(options: argparse.Namespace, dashboard: "Dashboard", history: "History", now: Any, config: Any) -> None:
    from kuberay.rollout.effects import effects, strongest

    found = effects(now, config, alone=options.alone)
    kind = strongest(found)
    said = _said(now, config, found, kind, history)
    if options.command == "plan":
        print(json.dumps(said, indent=1) if options.json else _text(said))
        return
    print(_text(said), file=sys.stderr)
    if kind == "new cluster":
        raise UserError(
            "Serve takes these options only when it starts: stop the cluster's Serve (or the cluster) and deploy anew"
        )
    if kind == "nothing":
        print("nothing to do")
        return
    _carry_out(options, dashboard, history, config, said)


def _carry_out(options: argparse.Namespace, dashboard: "Dashboard", history: "History", config: Any, said: Any) -> None:
    from apps.common.progress_line import Progress
    from kuberay.rollout.carry_out import apply

    with Progress() as progress:
        done = apply(dashboard, history, config, (said["kind"], said["replicas"]), progress.report, options.timeout)
    print(f"healthy after {done.seconds:.0f} s, of which the model was away for {done.away_s:.0f} s")


def _checked(options: argparse.Namespace) -> dict[str, Any]:
    """The config in the file, with nothing wrong in it, and its weights staged."""
    from apps.checks.serve_rules import check_serve_config
    from apps.checks.source import read

    source = read(options.config)
    wrong = [one for one in check_serve_config(source.content, slices=options.slices) if one.severity == "error"]
    if wrong:
        raise UserError("\n".join(f"{options.config}:{source.line(one.path)}: error: {one}" for one in wrong))
    apps = [{"name": "default", **app} for app in source.content["applications"]]  # Serve's own name for one without
    if not apps:
        raise UserError(f"{options.config}: applications: is empty, and there is nothing to wait for")
    for app in apps:
        for llm in (app.get("args") or {}).get("llm_configs") or []:
            _check_weights(llm)
    return {**source.content, "applications": apps}


def _check_weights(llm: dict[str, Any]) -> None:
    from apps.weights.args import asks_for_prefetch, prefetch_args
    from apps.weights.store import Store

    url = prefetch_args(llm).url if asks_for_prefetch(llm) else None  # without one it is the hosts' WEIGHTS_URL, unknown here
    if url and Store(url).manifest() is None:
        name = llm["model_loading_config"]["model_id"]
        raise OperationError(f"{url} holds no whole model: stage {name} there first (python -m apps.weights stage)")


def _said(now: Any, config: Any, found: "list[Effect]", kind: "Kind", history: "History") -> dict[str, Any]:
    from kuberay.rollout.effects import chips, drain_s, replicas

    left = replicas(now, config)
    measured = history.last(kind, left)
    return {
        "effects": [asdict(one) for one in found],
        "kind": kind,
        "chips": asdict(chips(now, config)),
        "replicas": left,
        "drain_s": drain_s(now) if kind == "restart" else None,
        "measured_away_s": measured.away_s if measured else None,
        "measured_s": measured.seconds if measured else None,
    }


def _text(said: dict[str, Any]) -> str:
    lines = [
        f"  {one['app']:<12} {one['kind']}" + (f": {', '.join(one['keys'])}" if one["keys"] else "") for one in said["effects"]
    ]
    need = said["chips"]
    lines.append(f"  {'chips':<12} {need['before']} now, {need['after']} after, {need['most']} at most on the way")
    if said["drain_s"] is not None:
        lines.append(
            f"  {'requests':<12} running answers have {said['drain_s']:.0f} s to end, {_new_requests(said['replicas'])}"
        )
    if said["kind"] in ("restart", "start", "in place"):
        lines.append(f"  {'time':<12} {_time(said)}")
    return "\n".join(lines)


def _new_requests(replicas: int) -> str:
    if replicas > 1:
        return f"new ones go to the other {'replica' if replicas == 2 else 'replicas'}: one is changed after the other"
    return "new ones get 503 with Retry-After until the one replica is back"


def _time(said: dict[str, Any]) -> str:
    if said["measured_s"] is None:
        return "not measured yet: no such change was made here before"
    return f"the last such change took {said['measured_s']:.0f} s, the model was away for {said['measured_away_s']:.0f} s of it"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/change.py",
        description="Change what a running Serve serves: see what it would do, do it, go back. A cluster's dashboard is at "
        "localhost:8265 while scripts/cluster.py forward runs.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    words = {
        "plan": "say what a config would do, and change nothing",
        "apply": "deploy a config, and go back if it is not healthy in time",
        "rollback": "deploy the last other config that was healthy",
    }
    for name, what in words.items():
        command = commands.add_parser(name, help=what, description=what)
        if name != "rollback":
            command.add_argument("config", metavar="CONFIG", type=Path, help="a Serve config, such as serve_configs/gemma.yaml")
            command.add_argument(
                "--slices", type=whole_number, default=1, help="TPU slices that the cluster has (default: %(default)s)"
            )
            command.add_argument("--alone", action="store_true", help="remove the apps that this config does not name")
        else:
            command.set_defaults(alone=True)
        command.add_argument(
            "-a",
            "--address",
            type=url,
            default="http://127.0.0.1:8265",
            metavar="URL",
            help="Ray's dashboard (default: %(default)s)",
        )
        if name == "plan":
            command.add_argument("--json", action="store_true", help="one object for machines")
        else:
            command.add_argument(
                "--timeout", type=seconds, default=3600.0, metavar="S", help="longest wait (default: %(default).0f s)"
            )
    return parser

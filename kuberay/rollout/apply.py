"""Plan a change, make it, measure it, and go back where it does not become healthy."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from apps.checks.serve_rules import check_serve_config
from apps.checks.source import read
from apps.common.errors import OperationError, UserError
from apps.common.progress_line import Progress
from apps.common.serve_status import all_running
from apps.common.settings import ray_token, state_root
from kuberay.api import connect
from kuberay.consistency import with_names
from kuberay.dashboard import Config, Dashboard, deployed_config, merged
from kuberay.forward import forwarded_dashboard
from kuberay.rollout.deploy import ClusterStore
from kuberay.rollout.effects import as_text, describe, effects, strongest
from kuberay.rollout.history import Change, FileStore, History, now
from kuberay.spec import load
from kuberay.state import read_state

Report = Callable[[str], None]


def run(options: argparse.Namespace) -> None:
    """Do what one of the commands plan, apply and rollback wants. Raises `UserError` and `OperationError`."""
    config = _checked(options) if options.command != "rollback" else None
    with _target(options) as (dashboard, history):
        _run(options, config, dashboard, history)


@contextmanager
def _target(options: argparse.Namespace) -> Iterator[tuple[Dashboard, History]]:
    """The Serve to change, and where its changes are noted. On Kubernetes nobody else deploys while it is changed."""
    if options.cluster is None:
        url = options.address.rstrip("/")
        yield Dashboard(url, ray_token()), History(FileStore(state_root(), url))
        return
    api, spec = connect(options.kubeconfig, options.context), load(options.cluster)
    store = ClusterStore(api, spec)
    lock = nullcontext() if options.command == "plan" else store.locked()
    with forwarded_dashboard(api, spec, read_state(api, spec)) as dashboard, lock:
        yield dashboard, History(store)


def _run(options: argparse.Namespace, config: Config | None, dashboard: Dashboard, history: History) -> None:
    serve = dashboard.serve()
    deployed = deployed_config(serve)
    if config is None:
        config = history.before(deployed)
        if config is None:
            raise UserError(
                "there is no other config to go back to: this tool has seen no healthy one before the one that runs"
            )
    if not options.alone:
        config = merged(config, serve)
    changes = effects(deployed, config, remove_others=options.alone)
    kind = strongest(changes)
    description = describe(deployed, config, changes)
    if measured := history.last(kind, description["replicas"]):
        description |= {"measured_away_s": measured.away_s, "measured_s": measured.seconds}
    if options.command == "plan":
        print(json.dumps(description, indent=1) if options.json else as_text(description))
        return
    print(as_text(description), file=sys.stderr)
    if kind == "new cluster":
        raise UserError(
            "Serve takes these options only when it starts: stop the cluster's Serve (or the cluster) and deploy again"
        )
    if kind == "nothing":
        print("nothing to do")
        return
    with Progress() as progress:
        done = apply(dashboard, history, config, description, progress.report, options.timeout)
    print(f"healthy after {done.seconds:.0f} s, of which the model was away for {done.away_s:.0f} s")


def apply(
    dashboard: Dashboard, history: History, config: Config, description: dict[str, Any], report: Report, timeout_s: float
) -> Change:
    """Deploy a config and note it once it is healthy; else go back to what ran before. `description` is of `describe`.

    Raises:
        OperationError: it did not become healthy; the message has the reason, and whether the old one runs again.
    """
    serve = dashboard.serve()
    before = deployed_config(serve)
    if all_running(serve["applications"]):
        history.note(before)
    try:
        seconds, away_s = _deploy(dashboard, config, report, timeout_s)
    except OperationError as error:
        if not before["applications"]:
            raise
        report(f"going back: {error}")
        try:
            _deploy(dashboard, before, report, timeout_s)
        except OperationError as second:
            raise OperationError(f"{error}\nand the config before it does not run either: {second}") from second
        raise OperationError(f"{error}\nThe config before it runs again") from error
    change = Change(now(), config, description["kind"], description["replicas"], round(seconds, 1), round(away_s, 1))
    history.add(change)
    return change


def _deploy(dashboard: Dashboard, config: Config, report: Report, timeout_s: float) -> tuple[float, float]:
    """Deploy a config and wait until it is healthy: the seconds that took, and those in which a model had no replica."""
    began = time.monotonic()
    dashboard.serve_deploy(config)
    away_s = dashboard.until_running(config, report, timeout_s)
    return time.monotonic() - began, away_s


def _checked(options: argparse.Namespace) -> Config:
    """The config in the file, with nothing wrong in it, and its weights staged."""
    source = read(options.config)
    findings = check_serve_config(source.content, slices=options.slices)
    if wrong := [finding for finding in findings if finding.severity == "error"]:
        raise UserError("\n".join(f"{options.config}:{source.line(finding.path)}: error: {finding}" for finding in wrong))
    config = with_names(source.content)
    if not config["applications"]:
        raise UserError(f"{options.config}: applications: is empty, so there is nothing to wait for")
    for app in config["applications"]:
        for llm in (app.get("args") or {}).get("llm_configs") or []:
            _check_weights(llm)
    return config


def _check_weights(llm: dict[str, Any]) -> None:
    from apps.weights.args import asks_for_prefetch, prefetch_args
    from apps.weights.store import Store

    url = prefetch_args(llm).url if asks_for_prefetch(llm) else None  # without one it is the hosts' WEIGHTS_URL, unknown here
    if url and Store(url).manifest() is None:
        name = llm["model_loading_config"]["model_id"]
        raise OperationError(f"{url} does not hold a complete model: stage {name} there first (python -m apps.weights stage)")

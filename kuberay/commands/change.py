"""Commands that change the cluster: apply, deploy, park, unpark, down."""

import secrets
import sys
from contextlib import suppress
from typing import Any

from apps.common.errors import OperationError
from apps.common.progress_line import Progress
from kuberay import apply as applying
from kuberay import names, reasons, remove, wait
from kuberay.api import Api, ForbiddenError
from kuberay.commands import Options, checked, connected, print_counts
from kuberay.dashboard import deployed_config
from kuberay.forward import forwarded_dashboard
from kuberay.manifests import manifest
from kuberay.objects import Manifest, title
from kuberay.render import manifests
from kuberay.rollout import deploy
from kuberay.rollout.history import History
from kuberay.spec import Spec, load
from kuberay.state import read_state

_WORDS = {"create": "made", "change": "changed", "unchanged": "as it was", "forbidden": "refused", "hidden": "not yours to see"}
_WITH_PODS = ("Job", "RayCluster", "RayService")


def apply(options: Options) -> None:
    """Make the cluster what the spec describes."""
    api, wanted = connected(options), checked(options)
    spec = wanted.spec
    changes = applying.plan(api, manifests(spec, wanted.serve_text, options.part), force=options.force)
    if conflicts := [f"{title(change.manifest)}: {change.note}" for change in changes if change.verb == "conflict"]:
        raise OperationError("\n".join(conflicts))
    old = [] if options.part else remove.superseded(api, spec, [change.manifest for change in changes])
    if not (options.yes or options.dry_run):
        _ask(changes, old)
    with_pods = [change for change in changes if change.manifest["kind"] in _WITH_PODS]
    _apply_all(api, [change for change in changes if change not in with_pods], options)
    if not options.dry_run:
        _check_secrets(api, spec, with_pods)
    for live in old:  # before the pods: it may hold what they need
        print(f"{'would be removed' if options.dry_run else 'removed':>18}  {title(live)}")
        if not options.dry_run and (left := remove.remove(api, live)):
            print(left, file=sys.stderr)
    _apply_all(api, with_pods, options)
    if not options.dry_run:
        _make_token(api, spec)
    print_counts(changes, dry_run=options.dry_run)


def _apply_all(api: Api, changes: list[applying.Change], options: Options) -> None:
    for change in changes:
        if not options.dry_run:
            applying.apply(api, change, force=options.force)
        print(f"{_WORDS[change.verb]:>18}  {title(change.manifest)}")
        if change.note:
            print(f"note: {change.note}", file=sys.stderr)


def _ask(changes: list[applying.Change], old: list[Manifest]) -> None:
    """Raise where somebody has to agree first. A staging job of before has done its work, or never will."""
    if any(map(applying.restarts_pods, changes)):
        raise OperationError(
            "this changes the pods of a running cluster: KubeRay ends them all, and the model is away until it is loaded and "
            "compiled again. `diff` shows the change; --yes makes it"
        )
    if gone := [title(live) for live in old if live["kind"] != "Job"]:
        raise OperationError(f"this removes {', '.join(gone)}, which the spec does not describe any more: --yes does it")


def _check_secrets(api: Api, spec: Spec, changes: list[applying.Change]) -> None:
    """Raise before pods are wanted, and nodes for them rented, that would wait for a secret that nobody has made."""
    if not any(change.verb == "create" for change in changes):
        return
    if missing := [name for name in spec.secrets if not _may_be_there(api, name, spec.namespace)]:
        commands = "".join(
            f"\n  kubectl -n {spec.namespace} create secret generic {name}"
            + "".join(f" --from-file={key}=FILE" for key in spec.secrets[name])
            for name in missing
        )
        raise OperationError(f"the pods need secrets that are not there. Make them and apply again:{commands}")


def _may_be_there(api: Api, secret: str, namespace: str) -> bool:
    try:
        return api.get("Secret", secret, namespace) is not None
    except ForbiddenError:
        return True


def deploy_apps(options: Options) -> None:
    """Hand a Serve config to the cluster and wait until its apps run."""
    api, wanted = connected(options), checked(options)
    state = read_state(api, wanted.spec)
    if not state.ready():
        waiting = "".join(f"\n  {reason}" for reason in reasons.reasons(state))
        raise OperationError(f"the cluster is not ready:{waiting}\nscripts/cluster.py wait follows it")
    with Progress() as progress, forwarded_dashboard(api, wanted.spec, state) as dashboard:
        config = deploy.last_deployed(api, wanted.spec) if options.last else wanted.serve_config
        if config is None:
            raise OperationError("nothing was deployed to this cluster before: leave --last out")
        whole = deploy.deploy(api, wanted.spec, dashboard, config, remove_others=options.alone)
        dashboard.until_running(config, progress.report, options.timeout)
    kept = _names([app for app in whole["applications"] if app not in config["applications"]])
    print(f"running: {_names(config['applications'])}" + (f"; kept: {kept}" if kept else ""))


def park(options: Options) -> None:
    """Give the TPU hosts back; the objects stay."""
    api, spec = _suspend(options, suspended=True)
    with Progress() as progress:
        wait.until_gone(api, spec, names.ray_pods(spec.name), progress.report, options.timeout)
    print("parked: no pods are left; `scripts/cluster.py unpark` brings them back")


def _note_what_runs(api: Api, spec: Spec) -> None:
    """Note what `unpark` is to bring back, also where it was deployed past this project; nothing where no head answers."""
    with suppress(OperationError), forwarded_dashboard(api, spec, read_state(api, spec)) as dashboard:
        running = deployed_config(dashboard.serve())
        if running["applications"]:
            store = deploy.ClusterStore(api, spec)
            with store.locked():
                History(store).note(running)


def unpark(options: Options) -> None:
    """Bring the pods back, and the apps that ran."""
    api, spec = _suspend(options, suspended=False)
    with Progress() as progress:
        state = wait.until_ready(api, spec, progress.report, options.timeout)
        config = deploy.last_deployed(api, spec)
        if config:
            with forwarded_dashboard(api, spec, state) as dashboard:
                deploy.deploy(api, spec, dashboard, config)
                dashboard.until_running(config, progress.report, options.timeout)
    print(f"{wait.summary(state)}; apps: {_names(config['applications']) if config else 'none'}")


def down(options: Options) -> None:
    """Remove the deployment."""
    api, spec = connected(options), load(options.spec)
    objects, hidden = remove.plan(api, spec)
    if options.dry_run:
        for live in objects:
            print(f"would delete {title(live)}")
        return
    for live in objects:
        print(remove.remove(api, live) or f"{title(live)} deleted")
        if live["kind"] in _WITH_PODS:  # what its pods use goes after them
            with Progress() as progress:
                wait.until_gone(api, spec, _pods_of(spec, live), progress.report, options.timeout)
    for kind in hidden:
        print(f"{kind}: you may not list them, what there is stays")
    if message := remove.remove_namespace(api, spec):
        print(message)


def _names(apps: list[dict[str, Any]]) -> str:
    return ", ".join(app["name"] for app in apps)


def _pods_of(spec: Spec, owner: Manifest) -> dict[str, str]:
    if owner["kind"] == "Job":
        return {names.JOB_LABEL: owner["metadata"]["name"]}
    return names.ray_pods(spec.name)


def _suspend(options: Options, *, suspended: bool) -> tuple[Api, Spec]:
    """Have KubeRay take the pods away, with what runs noted, or bring them back; returns the cluster and the spec."""
    api, spec = connected(options), load(options.spec)
    if spec.overlay.kueue:
        raise OperationError("Kueue decides whether the hosts are there: set `active: false` in the deployment's Workload")
    if spec.kind == "RayService":
        raise OperationError("a RayService cannot be parked with KubeRay 1.6: use a RayCluster, or `down` and `apply`")
    if suspended:
        _note_what_runs(api, spec)
    api.patch("RayCluster", spec.name, spec.namespace, {"spec": {"suspend": suspended}})
    return api, spec


def _make_token(api: Api, spec: Spec) -> None:
    """Make a RayService's token; KubeRay makes a RayCluster's by itself."""
    name = names.service_token_secret(spec.name)
    if spec.kind == "RayService" and spec.auth == "token" and not api.get("Secret", name, spec.namespace):
        data = {names.TOKEN_KEY: secrets.token_hex(32)}
        api.create(manifest(spec, "access", "Secret", name, stringData=data))

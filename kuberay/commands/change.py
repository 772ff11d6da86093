"""Commands that change the cluster: apply, deploy, park, unpark, down."""

import secrets

from apps.common.errors import OperationError
from apps.common.progress_line import Progress
from kuberay import change, deploy, names, reasons, remove, wait
from kuberay.api import Api
from kuberay.clusters import Clusters, clusters
from kuberay.commands.shared import Options, api_of, app_names, checked, say_counts, taken_over
from kuberay.dashboard import dashboard
from kuberay.kinds import Manifest, title
from kuberay.render import manifests
from kuberay.spec import Spec, load
from kuberay.state import read_state


def apply(options: Options) -> None:
    """Make the cluster what the spec says."""
    api, wanted = api_of(options), checked(options)
    changes = change.plan(api, manifests(wanted.spec, wanted.serve_text), force=taken_over(options))
    if any(map(change.restarts_pods, changes)) and not (options.yes or options.dry_run):
        raise OperationError(
            "this changes the pods of a running cluster: KubeRay ends them all, the model is away until it is loaded and "
            "compiled again. `diff` shows the change; with --yes it is made"
        )
    backend = clusters(api, options.backend)
    for one in changes:
        if not options.dry_run:
            change.carry_out(api, backend, one, force=taken_over(options))
        print(f"{_WORDS[one.verb]:>18}  {title(one.manifest)}")
    if not options.dry_run:
        _make_token(api, wanted.spec)
    say_counts(changes, dry_run=options.dry_run)


def deploy_apps(options: Options) -> None:
    """Hand a Serve config to the cluster and wait until its apps run."""
    api = api_of(options)
    wanted = checked(options)
    state = read_state(api, wanted.spec)
    if not state.ready():
        waiting = "".join(f"\n  {one}" for one in reasons.reasons(state))
        raise OperationError(f"the cluster is not ready:{waiting}\nscripts/cluster.py wait follows it")
    with Progress() as progress, dashboard(api, wanted.spec, state) as there:
        config = deploy.last_deployed(api, wanted.spec) if options.last else wanted.serve_config
        if config is None:
            raise OperationError("nothing was deployed to this cluster before: leave --last out")
        whole = deploy.deploy(api, wanted.spec, there, config, alone=options.alone)
        deploy.until_running(there, config, progress.report, options.timeout)
    kept = [app["name"] for app in whole["applications"] if app not in config["applications"]]
    print(f"running: {app_names(config)}" + (f"; kept: {', '.join(kept)}" if kept else ""))


def park(options: Options) -> None:
    """Give the TPU hosts back; the objects stay."""
    api, spec = api_of(options), load(options.spec)
    _clusters(api, options, spec).suspend(spec.name, spec.namespace, suspended=True)
    with Progress() as progress:
        wait.until_gone(api, spec, names.ray_pods(spec.name), progress.report, options.timeout)
    print("parked: no pods are left; `scripts/cluster.py unpark` brings them back")


def unpark(options: Options) -> None:
    """Bring the pods back, and the apps that ran."""
    api, spec = api_of(options), load(options.spec)
    _clusters(api, options, spec).suspend(spec.name, spec.namespace, suspended=False)
    with Progress() as progress:
        state = wait.until_ready(api, spec, progress.report, options.timeout)
        config = deploy.last_deployed(api, spec)
        if config:
            with dashboard(api, spec, state) as there:
                deploy.deploy(api, spec, there, config)
                deploy.until_running(there, config, progress.report, options.timeout)
    print(f"{wait.summary(state)}; apps: {app_names(config) if config else 'none'}")


def down(options: Options) -> None:
    """Remove the deployment."""
    api, spec = api_of(options), load(options.spec)
    planned = remove.plan(api, spec)
    if options.dry_run:
        for one in planned.found:
            print(f"would delete {title(one)}")
        return
    backend = clusters(api, options.backend)
    for one in planned.found:
        print(remove.remove(api, backend, one))
        if one["kind"] in ("RayCluster", "RayService", "Job"):  # what its pods use goes after them
            with Progress() as progress:
                wait.until_gone(api, spec, _pods_of(spec, one), progress.report, options.timeout)
    for kind in planned.hidden:
        print(f"{kind}: you may not look for them, what there is stays")
    if said := remove.remove_namespace(api, spec):
        print(said)


_WORDS = {
    "create": "made",
    "change": "changed",
    "unchanged": "as it was",
    "forbidden": "refused",
    "hidden": "not yours to see",
}


def _pods_of(spec: Spec, owner: Manifest) -> dict[str, str]:
    if owner["kind"] == "Job":
        return {names.JOB_LABEL: owner["metadata"]["name"]}
    return names.ray_pods(spec.name)


def _clusters(api: Api, options: Options, spec: Spec) -> Clusters:
    if spec.kind == "RayService":
        raise OperationError("a RayService cannot be parked with KubeRay 1.6: use a RayCluster, or `down` and `apply`")
    return clusters(api, options.backend)


def _make_token(api: Api, spec: Spec) -> None:
    """A RayService's token; KubeRay makes a RayCluster's by itself."""
    name = names.service_token_secret(spec.name)
    if spec.kind != "RayService" or spec.auth == "none" or api.get("Secret", name, spec.namespace):
        return
    metadata = {"name": name, "namespace": spec.namespace, "labels": names.labels(spec.name, "access")}
    data = {names.TOKEN_KEY: secrets.token_hex(32)}
    api.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data})

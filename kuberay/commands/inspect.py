"""Commands that change nothing: diff, wait, status, logs, forward, doctor."""

import contextlib
import json
import sys
import time
from dataclasses import asdict
from typing import Any

from apps.common.errors import BundleError, OperationError
from apps.common.progress_line import Progress
from apps.common.serve_status import waiting_for
from kuberay import apply, names, reasons, wait
from kuberay.api import Api
from kuberay.commands import Options, checked, connected, print_counts
from kuberay.doctor import ClusterSnapshot
from kuberay.doctor.examine import examine, report
from kuberay.forward import forwarded_dashboard, forwarding
from kuberay.remove import superseded
from kuberay.render import manifests
from kuberay.rollout.deploy import last_deployed
from kuberay.spec import Spec, load
from kuberay.state import State, index_of_pod, read_state


def diff(options: Options) -> None:
    """Print what apply would change."""
    api, wanted = connected(options), checked(options)
    changes = apply.plan(api, manifests(wanted.spec, wanted.serve_text), force=options.force)
    for change in changes:
        sys.stdout.write(change.diff())
        if change.note:
            print(f"note: {change.note}", file=sys.stderr)
    for live in superseded(api, wanted.spec, [change.manifest for change in changes]):
        sys.stdout.write(apply.diff(live, None))
    print_counts(changes)


def wait_for(options: Options) -> None:
    """Follow until all pods are ready."""
    api, spec = connected(options), load(options.spec)
    started = time.monotonic()
    with Progress() as progress:
        state = wait.until_ready(api, spec, progress.report, options.timeout)
    print(f"{wait.summary(state)} after {time.monotonic() - started:.0f} s")


def status(options: Options) -> None:
    """Print what is there, what it waits for, which apps run."""
    api, spec = connected(options), load(options.spec)
    state = read_state(api, spec)
    apps = _apps(api, spec, state)
    waiting = [str(reason) for reason in reasons.reasons(state)]
    lost = _lost_apps(api, spec, apps)
    if options.json:
        print(json.dumps({"ready": state.ready(), "waiting": waiting, "apps": apps, "lost_apps": lost}, indent=1))
        return
    print(f"{spec.kind} {spec.namespace}/{spec.name} on {api.context}: {wait.summary(state)}")
    for line in (*waiting, *(f"app {name}: {app}" for name, app in (apps or {}).items())):
        print(f"  {line}")
    if lost:
        print(f"  the head has lost its apps ({', '.join(lost)}): `scripts/cluster.py deploy --last` brings them back")


def logs(options: Options) -> None:
    """Print a pod's log."""
    api, spec = connected(options), load(options.spec)
    state = read_state(api, spec)
    pod = state.head
    if options.host is not None:
        pod = next((host for host in state.hosts if index_of_pod(host) == options.host), None)
    if pod is None:
        there = ", ".join(reasons.pod_name(pod) for pod in state.pods) or "none"
        raise OperationError(f"there is no such pod (existing pods: {there})")
    container = pod["spec"]["containers"][0]["name"]
    for line in api.logs(pod["metadata"]["name"], spec.namespace, container, follow=options.follow, tail=options.tail):
        print(line, flush=options.follow)


def forward(options: Options) -> None:
    """Bring the API and the dashboard to this machine, until Ctrl-C."""
    api, spec = connected(options), load(options.spec)
    state = read_state(api, spec)
    if state.head is None:
        raise OperationError("there is no head to forward to: scripts/cluster.py wait shows why")
    pod = state.head["metadata"]["name"]
    with (
        forwarding(api, pod, spec.namespace, names.PORTS["serve"], options.port) as port,
        forwarding(api, pod, spec.namespace, names.PORTS["dashboard"], options.dashboard_port) as dashboard_port,
    ):
        print(f"API        http://127.0.0.1:{port}/v1\nChat       http://127.0.0.1:{port}/chat/")
        print(f"Dashboard  http://127.0.0.1:{dashboard_port}\nCtrl-C ends it.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


def doctor(options: Options) -> int:
    """Print what is wrong; exit code 1 if something is."""
    api, spec = connected(options), load(options.spec)
    diagnoses = examine(ClusterSnapshot(api, spec, read_state(api, spec)))
    print(json.dumps([asdict(diagnosis) for diagnosis in diagnoses], indent=1) if options.json else report(diagnoses))
    return 1 if any(diagnosis.severity == "error" for diagnosis in diagnoses) else 0


def _apps(api: Api, spec: Spec, state: State) -> dict[str, Any] | None:
    """Status of each app; None where Ray does not answer."""
    try:
        with forwarded_dashboard(api, spec, state) as dashboard:
            applications = dashboard.serve()["applications"]
    except BundleError:
        return None
    return {name: "RUNNING" if app["status"] == "RUNNING" else waiting_for({name: app}) for name, app in applications.items()}


def _lost_apps(api: Api, spec: Spec, apps: dict[str, Any] | None) -> list[str]:
    last = last_deployed(api, spec) if apps == {} else None
    return [app["name"] for app in last["applications"]] if last else []

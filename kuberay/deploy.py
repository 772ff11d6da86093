"""Deploy a Serve config to a cluster: beside the apps that are there already, by `serve deploy`, until every app runs.

Serve's own PUT replaces all apps, so that a second team's deploy would remove the first one's (ray#42974). What was deployed
is kept in a ConfigMap, which also tells that somebody else deployed in the meantime.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from apps.common.errors import OperationError
from apps.common.serve_status import all_running, failure, waiting_for
from apps.common.settings import inherited_environment
from kuberay import lock, names
from kuberay.api import Api
from kuberay.dashboard import Dashboard
from kuberay.kinds import Manifest
from kuberay.spec import Spec

Config = dict[str, Any]
_KEY = "serve.yaml"
_POLL_S = 1.0
_LOCK_S = 120.0
_SERVE_S = 300.0
_SERVE = "import sys; from ray.serve.scripts import cli; cli(sys.argv[1:], prog_name='serve')"


def merged(config: Config, serve: dict[str, Any]) -> Config:
    """The config with the apps that are deployed already and that it does not name."""
    own = {app.get("name", "default") for app in config["applications"]}
    others = [
        app["deployed_app_config"]
        for name, app in (serve.get("applications") or {}).items()
        if name not in own and app.get("deployed_app_config")
    ]
    return {**config, "applications": [*config["applications"], *others]}


def deploy(api: Api, spec: Spec, dashboard: Dashboard, config: Config, *, alone: bool = False) -> Config:
    """Hand a config to Serve; returns it with the apps that were kept. `alone` removes those instead.

    Raises:
        OperationError: `serve deploy` fails, or others deploy all the time.
    """
    record = _record(spec)
    with lock.held(api, record, _LOCK_S):
        whole = config if alone else merged(config, dashboard.serve())
        serve_deploy(dashboard, whole)
        data = {"data": {_KEY: yaml.safe_dump(whole, sort_keys=False)}}
        api.patch("ConfigMap", record["metadata"]["name"], spec.namespace, data)
    return whole


def last_deployed(api: Api, spec: Spec) -> Config | None:
    """What was deployed last, with all apps; None if nothing was."""
    found = api.get("ConfigMap", names.serve_config_map(spec.name), spec.namespace)
    text = (found or {}).get("data", {}).get(_KEY)
    return yaml.safe_load(text) if text else None


def until_running(dashboard: Dashboard, config: Config, say: Callable[[str], None], timeout_s: float) -> None:
    """Wait until every app of a config runs.

    Raises:
        OperationError: one fails, with Serve's own reason, or they do not run in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        ours, running = look(dashboard, config)
        if running:
            return
        if time.monotonic() > deadline:
            raise OperationError(f"not running after {timeout_s:.0f} s; {waiting_for(ours)}")
        say(waiting_for(ours))
        time.sleep(_POLL_S)


def look(dashboard: Dashboard, config: Config) -> tuple[dict[str, Any], bool]:
    """Serve's apps that a config names, and whether every one of them runs. Raises `OperationError` if one has failed."""
    wanted = {app.get("name", "default") for app in config["applications"]}
    applications = dashboard.serve().get("applications") or {}
    ours = {name: app for name, app in applications.items() if name in wanted}
    if failed := failure(ours):
        raise OperationError(failed)
    return ours, set(ours) == wanted and all_running(ours)


def _record(spec: Spec) -> Manifest:
    metadata = {
        "name": names.serve_config_map(spec.name),
        "namespace": spec.namespace,
        "labels": names.labels(spec.name, "serve"),
    }
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {}}


def serve_deploy(dashboard: Dashboard, config: Config) -> None:
    """Run `serve deploy`. Raises `OperationError` if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "serve.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        command = [sys.executable, "-c", _SERVE, "deploy", "--address", dashboard.url, str(path)]
        environment = {**inherited_environment(), **dashboard.environment()}
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SERVE_S)
        except subprocess.TimeoutExpired:
            raise OperationError(f"serve deploy did not end within {_SERVE_S:.0f} s") from None
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise OperationError(f"serve deploy failed: {' / '.join(lines[-3:]) or 'no output'}")

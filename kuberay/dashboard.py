"""Ray's dashboard at a URL, as far as deployments go: which apps Serve has, `serve deploy` beside them, waiting until they run.

Needs no Kubernetes: `kuberay.forward` makes a cluster's dashboard a URL of this machine.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from apps.common.errors import OperationError
from apps.common.serve_status import all_running, failure, waiting_for
from apps.common.settings import inherited_environment

Config = dict[str, Any]
_TIMEOUT_S = 20
_SERVE_S = 300.0
_POLL_S = 1.0
_SERVE = "import sys; from ray.serve.scripts import cli; cli(sys.argv[1:], prog_name='serve')"


@dataclass(frozen=True)
class Dashboard:
    """The dashboard at a URL of this machine. `token` is the cluster's, or None where it has none; it is never printed."""

    url: str
    token: str | None = field(repr=False)

    def serve(self) -> dict[str, Any]:
        """Serve's state: `applications` by name, `http_options`. Raises `OperationError`."""
        path = "/api/serve/applications/"
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            answer = httpx.get(self.url + path, headers=headers, timeout=_TIMEOUT_S)
            answer.raise_for_status()
            return dict(answer.json())
        except httpx.HTTPStatusError as error:
            message = error.response.text.strip()[:300]
            raise OperationError(f"Ray's dashboard answers {error.response.status_code} to {path}: {message}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = error or type(error).__name__
            raise OperationError(f"Ray's dashboard does not answer ({reason}): is the head ready?") from error
        except ValueError as error:
            raise OperationError(f"{self.url}{path} is not a page of Ray's dashboard: the response is not JSON") from error

    def serve_deploy(self, config: Config) -> None:
        """Run `serve deploy`, which replaces all apps. Raises `OperationError` if it fails."""
        environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token} if self.token else {"RAY_AUTH_MODE": "disabled"}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "serve.yaml"
            path.write_text(yaml.safe_dump(config, sort_keys=False))
            command = [sys.executable, "-c", _SERVE, "deploy", "--address", self.url, str(path)]
            environment = {**inherited_environment(), **environment}
            try:
                done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SERVE_S)
            except subprocess.TimeoutExpired:
                raise OperationError(f"serve deploy did not finish within {_SERVE_S:.0f} s") from None
        if done.returncode:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise OperationError(f"serve deploy failed: {' / '.join(lines[-3:]) or 'no output'}")

    def until_running(self, config: Config, report: Callable[[str], None], timeout_s: float) -> float:
        """Wait until every app of a config runs; the seconds in which one of its models had no replica.

        Raises:
            OperationError: one fails, with Serve's own reason, or they do not run in time.
        """
        wanted = {app["name"] for app in config["applications"]}
        began = seen = time.monotonic()
        away_s = 0.0
        while True:
            time.sleep(_POLL_S)  # at first, too: after a PUT Serve still shows the old state for a moment
            ours = {name: app for name, app in self.serve()["applications"].items() if name in wanted}
            if failed := failure(ours):
                raise OperationError(failed)
            now = time.monotonic()
            away_s += now - seen if any(map(_is_away, ours.values())) else 0.0
            seen = now
            if set(ours) == wanted and all_running(ours):
                return away_s
            if now - began > timeout_s:
                raise OperationError(f"not healthy after {timeout_s:.0f} s; {waiting_for(ours)}")
            report(waiting_for(ours))


def deployed_config(serve: dict[str, Any]) -> Config:
    """The config of what runs now, from Serve's own state."""
    running = {
        name: app["deployed_app_config"] for name, app in serve["applications"].items() if app.get("deployed_app_config")
    }
    rest = {key: serve[key] for key in ("http_options", "proxy_location") if serve.get(key)}
    return {**rest, "applications": [{"name": name, **config} for name, config in running.items()]}


def merged(config: Config, serve: dict[str, Any]) -> Config:
    """The config with the apps that are deployed already and that it does not name.

    Serve's own PUT replaces all apps, so that a second team's deploy would remove the first one's (ray#42974).
    """
    own = {app["name"] for app in config["applications"]}
    others = [app for app in deployed_config(serve)["applications"] if app["name"] not in own]
    return {**config, "applications": [*config["applications"], *others]}


def _is_away(app: dict[str, Any]) -> bool:
    """True for a model without a replica; while Serve builds an app it lists none of those that still run."""
    if "llm_configs" not in ((app.get("deployed_app_config") or {}).get("args") or {}):
        return False
    deployments = (app.get("deployments") or {}).values()
    states = [replica["state"] for deployment in deployments for replica in deployment["replicas"]]
    return bool(states) and "RUNNING" not in states

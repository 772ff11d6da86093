"""Ray's dashboard at a URL, as far as deployments go: which apps Serve has, `serve deploy` beside them, waiting until they run.

Needs no Kubernetes: `kuberay.forward` makes a cluster's dashboard a URL of this machine.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from apps.common.errors import OperationError
from apps.common.serve_status import all_running, failure, waiting_for

Config = dict[str, Any]
_PATH = "/api/serve/applications/"
_TIMEOUT_S = 20
_DEPLOY_S = 300
_POLL_S = 1.0


@dataclass(frozen=True)
class Dashboard:
    """The dashboard at a URL of this machine. `token` is the cluster's, or None where it has none; it is never printed."""

    url: str
    token: str | None = field(repr=False)

    def serve(self) -> dict[str, Any]:
        """Serve's state: `applications` by name, `http_options`. Raises `OperationError`."""
        response = self._request("GET", _TIMEOUT_S)
        try:
            state: dict[str, Any] = response.json()
            state["applications"].keys()
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise OperationError(f"{self.url}{_PATH} is not a page of Ray's dashboard: it lists no applications") from error
        return state

    def serve_deploy(self, config: Config) -> None:
        """Hand Serve a config, as `serve deploy` does: it replaces all apps. Raises `OperationError`."""
        self._request("PUT", _DEPLOY_S, config)

    def _request(self, method: str, timeout_s: float, config: Config | None = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            answer = httpx.request(method, self.url + _PATH, json=config, headers=headers, timeout=timeout_s)
            return answer.raise_for_status()
        except httpx.HTTPStatusError as error:
            message = error.response.text.strip()[-300:]  # a traceback's end
            raise OperationError(f"Ray's dashboard answers {error.response.status_code} to {_PATH}: {message}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = error or type(error).__name__
            raise OperationError(f"Ray's dashboard does not answer ({reason}): is the head ready?") from error

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

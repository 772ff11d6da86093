"""Make a change, measure it, and go back where it does not become healthy."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from apps.common.errors import OperationError
from apps.common.serve_status import all_running, waiting_for
from kuberay.dashboard import Dashboard
from kuberay.deploy import Config, look, serve_deploy
from kuberay.rollout.effects import effects, strongest
from kuberay.rollout.history import Change, History

_POLL_S = 0.5
_SETTLE_S = 1.5  # after a PUT Serve still shows the old state for a moment
Say = Callable[[str], None]


@dataclass
class Watch:
    """Seconds of a change, and those in which a model had no replica."""

    began: float = field(default_factory=time.monotonic)
    away_s: float = 0.0
    _seen: float = field(default_factory=time.monotonic)

    def see(self, applications: dict[str, Any]) -> None:
        """Look once more."""
        now = time.monotonic()
        if any(_is_away(app) for app in applications.values()):
            self.away_s += now - self._seen
        self._seen = now

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


def today(serve: dict[str, Any]) -> Config:
    """The config of what runs now, from Serve's own state."""
    apps = [app["deployed_app_config"] for app in serve["applications"].values() if app.get("deployed_app_config")]
    rest = {key: serve[key] for key in ("http_options", "proxy_location") if serve.get(key)}
    return {**rest, "applications": apps}


def apply(dashboard: Dashboard, history: History, config: Config, kind: tuple[str, int], say: Say, timeout_s: float) -> Change:
    """Deploy a config and note it once it is healthy; else go back to what ran before.

    Args:
        kind: what the change does, and with how many replicas, for the note.

    Raises:
        OperationError: it did not become healthy; the message says why, and whether the old one runs again.
    """
    serve = dashboard.serve()
    before = today(serve)
    if all_running(serve["applications"]):
        _note_as_good(history, before)
    try:
        watch = _deploy(dashboard, config, say, timeout_s)
    except OperationError as error:
        if not before["applications"]:
            raise
        say(f"going back: {error}")
        try:
            _deploy(dashboard, before, say, timeout_s)
        except OperationError as second:
            raise OperationError(f"{error}\nand the config before it does not run either: {second}") from second
        raise OperationError(f"{error}\nThe config before it runs again") from error
    change = Change(_now(), dict(config), *kind, round(watch.seconds, 1), round(watch.away_s, 1))
    history.add(change)
    return change


def _deploy(dashboard: Dashboard, config: Config, say: Say, timeout_s: float) -> Watch:
    watch = Watch()
    serve_deploy(dashboard, config)
    while True:
        ours, running = look(dashboard, config)
        watch.see(ours)
        if running and watch.seconds > _SETTLE_S:
            return watch
        if watch.seconds > timeout_s:
            raise OperationError(f"not healthy after {timeout_s:.0f} s; {waiting_for(ours)}")
        say(waiting_for(ours))
        time.sleep(_POLL_S)


def _note_as_good(history: History, config: Config) -> None:
    last = history.changes[-1].config if history.changes else None
    if last is None or strongest(effects(config, last, alone=True)) != "nothing":
        history.add(Change(_now(), dict(config), "found"))


def _is_away(app: dict[str, Any]) -> bool:
    """True for a model without a replica; while Serve builds an app it lists none of those that still run."""
    if "llm_configs" not in ((app.get("deployed_app_config") or {}).get("args") or {}):
        return False
    states = [replica["state"] for one in (app.get("deployments") or {}).values() for replica in one["replicas"]]
    return bool(states) and "RUNNING" not in states


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""Deploy a Serve config to a cluster, beside the apps that are there already, one deploy at a time.

A ConfigMap keeps what was deployed, so that it can be deployed again; it is also the lock.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import yaml

from kuberay import names
from kuberay.api import Api
from kuberay.dashboard import Config, Dashboard, merged
from kuberay.manifests import manifest
from kuberay.rollout.history import Change, History, now, parse
from kuberay.rollout.lock import locked
from kuberay.spec import Spec

_HISTORY = "changes.json"
_LOCK_S = 120.0


@dataclass(frozen=True)
class ClusterStore:
    """The changes of a cluster's Serve, in the ConfigMap that a new head reads the last one of them from."""

    api: Api
    spec: Spec

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else deploys inside the block. Raises `OperationError` if others do all the time."""
        record = manifest(self.spec, "serve", "ConfigMap", names.serve_config_map(self.spec.name), data={})
        with locked(self.api, record, _LOCK_S):
            yield

    def read(self) -> list[Change]:
        record = self.api.get("ConfigMap", names.serve_config_map(self.spec.name), self.spec.namespace) or {}
        data = record.get("data") or {}
        return parse(data.get(_HISTORY, "")) or _lone(data.get(names.SERVE_CONFIG_KEY, ""))

    def write(self, changes: list[Change]) -> None:
        last = yaml.safe_dump(changes[-1].config, sort_keys=False)
        data = {"data": {names.SERVE_CONFIG_KEY: last, _HISTORY: json.dumps([asdict(change) for change in changes])}}
        self.api.patch("ConfigMap", names.serve_config_map(self.spec.name), self.spec.namespace, data)


def deploy(api: Api, spec: Spec, dashboard: Dashboard, config: Config, *, remove_others: bool = False) -> Config:
    """Hand a config to Serve; returns it with the apps that were kept. `remove_others` removes those instead.

    Raises `OperationError` where Serve refuses it, or others deploy all the time.
    """
    store = ClusterStore(api, spec)
    with store.locked():
        whole = config if remove_others else merged(config, dashboard.serve())
        dashboard.serve_deploy(whole)
        History(store).record(whole)
    return whole


def last_deployed(api: Api, spec: Spec) -> Config | None:
    """What was deployed last, with all apps; None if nothing was."""
    changes = ClusterStore(api, spec).read()
    return changes[-1].config if changes else None


def _lone(text: str) -> list[Change]:
    """The one config without a history: of an earlier version of this project, or beside a history that is not ours."""
    try:
        return [Change(now(), yaml.safe_load(text), "found")]
    except (yaml.YAMLError, ValueError):
        return []

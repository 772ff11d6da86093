"""Deploy a Serve config to a cluster, beside the apps that are there already, one deploy at a time.

A ConfigMap keeps what was deployed, so that it can be deployed again. A note in it is the lock: Serve takes the whole list
of apps at once, so that of two people who each add an app the later one would remove the other's.
"""

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml

from apps.common.errors import OperationError
from kuberay import names
from kuberay.api import Api, ApiError
from kuberay.dashboard import Config, Dashboard, merged
from kuberay.manifests import manifest
from kuberay.objects import Manifest
from kuberay.rollout.history import History
from kuberay.spec import Spec

_HISTORY = "changes.json"
_HOLDER = "ray-tpu-serve/deploying"
_UNTIL = "ray-tpu-serve/deploying-until"
_MAX_HELD = timedelta(minutes=10)  # far more than a deploy takes; after it the lock of someone who has vanished is void
_LOCK_S = 120.0
_POLL_S = 1.0
_CONFLICT = 409


@dataclass(frozen=True)
class ClusterStore:
    """The changes of a cluster's Serve, in the ConfigMap that a new head reads the last one of them from."""

    api: Api
    spec: Spec

    @classmethod
    @contextmanager
    def locked(cls, api: Api, spec: Spec) -> Iterator["ClusterStore"]:
        """The store, with nobody else deploying inside the block. Raises `OperationError` if others do all the time."""
        record = manifest(spec, "serve", "ConfigMap", names.serve_config_map(spec.name), data={})
        with locked(api, record, _LOCK_S):
            yield cls(api, spec)

    def read(self) -> list[dict[str, Any]]:
        record = self.api.get("ConfigMap", names.serve_config_map(self.spec.name), self.spec.namespace) or {}
        return list(json.loads((record.get("data") or {}).get(_HISTORY, "[]")))

    def write(self, changes: list[dict[str, Any]]) -> None:
        last = yaml.safe_dump(changes[-1]["config"], sort_keys=False)
        data = {"data": {names.SERVE_CONFIG_KEY: last, _HISTORY: json.dumps(changes)}}
        self.api.patch("ConfigMap", names.serve_config_map(self.spec.name), self.spec.namespace, data)


def deploy(api: Api, spec: Spec, dashboard: Dashboard, config: Config, *, remove_others: bool = False) -> Config:
    """Hand a config to Serve; returns it with the apps that were kept. `remove_others` removes those instead.

    Raises:
        OperationError: `serve deploy` fails, or others deploy all the time.
    """
    with ClusterStore.locked(api, spec) as store:
        whole = config if remove_others else merged(config, dashboard.serve())
        dashboard.serve_deploy(whole)
        History(store).note(whole)
    return whole


def last_deployed(api: Api, spec: Spec) -> Config | None:
    """What was deployed last, with all apps; None if nothing was."""
    changes = History(ClusterStore(api, spec)).changes
    return changes[-1].config if changes else None


@contextmanager
def locked(api: Api, record: Manifest, timeout_s: float) -> Iterator[None]:
    """Hold the lock in a ConfigMap (made from `record` if there is none) inside the block.

    Raises:
        OperationError: somebody else holds it for all that time.
    """
    holder = uuid.uuid4().hex
    deadline = time.monotonic() + timeout_s
    while not _take(api, record, holder):
        if time.monotonic() > deadline:
            raise OperationError(f"somebody else has been deploying to this cluster for {timeout_s:.0f} s: try again later")
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        _annotate(api, record, {_HOLDER: None, _UNTIL: None})


def _take(api: Api, record: Manifest, holder: str) -> bool:
    metadata = record["metadata"]
    try:
        live = api.get("ConfigMap", metadata["name"], metadata["namespace"]) or api.create(record)
        annotations = live["metadata"].get("annotations") or {}
        if annotations.get(_HOLDER) and datetime.fromisoformat(annotations[_UNTIL]) > datetime.now(UTC):
            return False
        until = (datetime.now(UTC) + _MAX_HELD).isoformat(timespec="seconds")
        _annotate(api, record, {_HOLDER: holder, _UNTIL: until}, live["metadata"]["resourceVersion"])
    except ApiError as error:
        if error.status == _CONFLICT:  # somebody else was quicker
            return False
        raise
    return True


def _annotate(api: Api, record: Manifest, annotations: dict[str, str | None], version: str | None = None) -> None:
    """Write annotations; with a `version` only onto that one."""
    metadata = record["metadata"]
    change: Manifest = {"annotations": annotations, **({"resourceVersion": version} if version else {})}
    api.patch("ConfigMap", metadata["name"], metadata["namespace"], {"metadata": change})

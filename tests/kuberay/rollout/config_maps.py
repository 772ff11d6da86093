"""ConfigMaps in memory, as the lock and the history use them: the versions and conflicts of an API server, without one."""

import copy
import threading
from typing import Any, cast

from kuberay.api import Api, ApiError
from kuberay.objects import Manifest


class ConfigMaps:
    """`objects` by name; `reads` and `writes` count what was asked."""

    def __init__(self) -> None:
        self.objects: dict[str, Manifest] = {}
        self.reads = self.writes = 0
        self._lock = threading.Lock()

    @property
    def api(self) -> Api:
        return cast("Api", self)

    def get(self, _kind: str, name: str, _namespace: str) -> Manifest | None:
        with self._lock:
            self.reads += 1
            return copy.deepcopy(self.objects.get(name))

    def create(self, manifest: Manifest) -> Manifest:
        with self._lock:
            name = manifest["metadata"]["name"]
            if name in self.objects:
                raise ApiError("already exists", 409)
            return self._write(name, copy.deepcopy(manifest))

    def patch(self, _kind: str, name: str, _namespace: str, change: dict[str, Any]) -> Manifest:
        with self._lock:
            live = self.objects.get(name)
            if live is None:
                raise ApiError("not found", 404)
            metadata = dict(change.get("metadata") or {})
            if metadata.pop("resourceVersion", None) not in (None, live["metadata"]["resourceVersion"]):
                raise ApiError("the object has been modified", 409)
            annotations = {**live["metadata"].get("annotations", {}), **metadata.get("annotations", {})}
            kept = {key: value for key, value in annotations.items() if value is not None}
            data = {**live.get("data", {}), **change.get("data", {})}
            return self._write(name, {**live, "metadata": {**live["metadata"], "annotations": kept}, "data": data})

    def _write(self, name: str, manifest: Manifest) -> Manifest:
        self.writes += 1
        manifest["metadata"]["resourceVersion"] = str(self.writes)
        self.objects[name] = manifest
        return copy.deepcopy(manifest)

"""ConfigMaps as directories of this machine, kept up to date as a kubelet does it for pods that mount them."""

import threading
from contextlib import suppress
from pathlib import Path

import httpx

from emulation.kubernetes.nodes.api import Api

_PERIOD_S = 2.0  # a kubelet takes a minute


class ConfigMaps:
    """All that pods have mounted, below one directory."""

    def __init__(self, api: Api, directory: Path) -> None:
        self._api, self._root = api, directory / "config"
        self._followed: dict[Path, str] = {}
        self._ended = threading.Event()
        threading.Thread(target=self._follow, daemon=True).start()

    def directory(self, namespace: str, name: str) -> Path:
        """The directory with the files of a ConfigMap; it is empty as long as there is none."""
        directory = self._root / namespace / name
        directory.mkdir(parents=True, exist_ok=True)
        self._followed[directory] = f"/api/v1/namespaces/{namespace}/configmaps/{name}"
        return directory

    def end(self) -> None:
        """Follow none of them any more."""
        self._ended.set()

    def _follow(self) -> None:
        while not self._ended.wait(_PERIOD_S):
            for directory, path in list(self._followed.items()):
                with suppress(httpx.HTTPError):
                    for key, text in ((self._api.find(path) or {}).get("data") or {}).items():
                        draft = directory / f"..{key}"  # where a kubelet has its own; what is read is whole
                        draft.write_text(text)
                        draft.replace(directory / key)

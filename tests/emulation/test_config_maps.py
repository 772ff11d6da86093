"""A pod's files of a ConfigMap: whole at any moment, as a kubelet has them."""

from pathlib import Path
from typing import cast

import pytest

from emulation.kubernetes.nodes import config_maps
from emulation.kubernetes.nodes.api import Api, wait_for


class Source:
    """The API server's part."""

    text = "old"

    def find(self, _path: str) -> dict[str, dict[str, str]]:
        return {"data": {"serve.yaml": self.text}}


def test_a_file_is_replaced_and_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_maps, "_PERIOD_S", 0.01)
    source = Source()
    maps = config_maps.ConfigMaps(cast("Api", source), tmp_path)
    try:
        file = maps.directory("gemma", "gemma-serve-config") / "serve.yaml"
        wait_for(file.exists, 10, "no file")
        with file.open() as opened:  # whoever reads it at this moment
            source.text = "new"
            wait_for(lambda: file.read_text() == "new", 10, "the file stays as it was")
            assert opened.read() == "old"
    finally:
        maps.end()

"""Resolve the source of a model, and refuse what is none with a message."""

from pathlib import Path

import pytest

from apps.common.errors import ContentError, UserError
from apps.weights.cache import cached_directory, resolve_source
from apps.weights.receipt import is_whole
from emulation.hosts import laptop_weights
from emulation.hosts.cached_model import make_beside


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_hub_id_is_left_alone() -> None:
    assert resolve_source("google/gemma-4-31B-it") == "google/gemma-4-31B-it"


def test_directory_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "a.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert resolve_source("model") == str(model)


@pytest.mark.parametrize("source", ["/no/such/directory", "no such", "org/model/more"])
def test_neither_directory_nor_id(source: str) -> None:
    with pytest.raises(UserError, match="no such directory, and not a hub id"):
        resolve_source(source)


def test_directory_without_weights_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        resolve_source(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"no \*\.safetensors"):
        resolve_source(str(tmp_path))


def test_cached_name_without_receipt_is_refused() -> None:
    cached_directory("half").mkdir(parents=True)
    with pytest.raises(ContentError, match="never completed"):
        resolve_source("cache:half")
    assert not is_whole(cached_directory("half"))


def test_leftovers_of_a_killed_conversion_go_away(tmp_path: Path) -> None:
    root = tmp_path / "weights"
    dead, living = root / f".{laptop_weights.LAPTOP_MODEL}.999999999.x", root / f".{laptop_weights.LAPTOP_MODEL}.1.x"
    dead.mkdir(parents=True)
    living.mkdir()
    make_beside(root / laptop_weights.LAPTOP_MODEL, lambda work: (work / "model").mkdir())
    assert (root / laptop_weights.LAPTOP_MODEL).is_dir()
    assert not dead.exists()
    assert living.exists()


def test_full_disk_is_said_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laptop_weights, "_NEEDED_BYTES", 1 << 60)
    with pytest.raises(UserError, match="GiB free, but the conversion needs"):
        laptop_weights.ensure_laptop_weights()
    assert not cached_directory(laptop_weights.LAPTOP_MODEL).exists()

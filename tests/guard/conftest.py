"""Keys and a guarded server; its log, whether or not Ray has set up its loggers here (they keep records from pytest)."""

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guard.served import Keys, Served, served


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    logger = logging.getLogger("ray.serve")
    logger.addHandler(handler)
    yield text
    logger.removeHandler(handler)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    keys = Keys(tmp_path / "keys.json")
    keys.make("alice")
    keys.make_expired("old")
    keys.make("off", disabled=True)
    keys.make("root", admin=True)
    return keys


@pytest.fixture
def server(keys: Keys, tmp_path: Path) -> Iterator[Served]:
    with served(keys, tmp_path) as server:
        yield server

"""Fixtures of the chat's tests: a guarded, simulated model, and the chat in front of it."""

from collections.abc import Iterator

import pytest

from tests.chat.browser import page  # noqa: F401 - a fixture
from tests.chat.visitor import chat
from tests.guard.served import Keys, Served, served


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    keys = Keys(tmp_path_factory.mktemp("keys") / "keys.json")
    keys.make("alice")
    keys.make("bob")
    return keys


@pytest.fixture(scope="module")
def model(keys: Keys) -> Iterator[Served]:
    with served(keys, keys.path.parent) as server:
        yield server


@pytest.fixture(scope="module")
def url(model: Served) -> Iterator[str]:
    with chat(f"{model.url}/v1", keyless=False) as address:
        yield address

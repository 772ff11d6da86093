"""Fixtures of the chat's tests: a guarded, simulated model, and the chat in front of it."""

from collections.abc import Iterator

import pytest

from tests.chat.visitor import chat
from tests.guard.served import Keys, Served, served


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    found = Keys(tmp_path_factory.mktemp("keys") / "keys.json")
    found.make("alice")
    found.make("bob")
    return found


@pytest.fixture(scope="module")
def model(keys: Keys) -> Iterator[Served]:
    with served(keys, keys.path.parent) as server:
        yield server


@pytest.fixture(scope="module")
def url(model: Served) -> Iterator[str]:
    with chat(f"{model.url}/v1", keyless=False) as found:
        yield found

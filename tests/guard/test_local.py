"""A server without keys answers this machine's programs, and no web page that its browser shows."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from apps.common.errors import UserError
from apps.guard.middleware import GuardMiddleware
from tests.guard.served import MODEL, Served, ask, served

BODY = {"model": MODEL, "prompt": "hi", "max_tokens": 1}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(None, tmp_path_factory.mktemp("local"), local=True) as server:
        yield server


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:80", "[::1]:8000"])
def test_programs_of_this_machine_are_answered(server: Served, host: str) -> None:
    assert httpx.post(f"{server.url}/v1/completions", json=BODY, headers={"host": host}).status_code == 200
    assert ask(server.client()).choices


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1.evil.example"},
        {"host": "evil.example"},
        {"host": "evil.example:8000", "origin": "http://evil.example:8000"},
        {"host": "[::1"},
        {"host": "\u00e9".encode().decode("latin-1")},
    ],
    ids=str,
)
def test_pages_of_elsewhere_are_not(server: Served, headers: dict[str, str]) -> None:
    raw = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    plain = {b"content-type": b"text/plain"}  # which a page may send without asking
    answer = httpx.post(f"{server.url}/v1/completions", json=BODY, headers=raw | plain)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden_origin")
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_the_control_routes_and_documentation_are_closed(server: Served) -> None:
    for path in ("/docs", "/metrics", "/version", "/sleep"):
        assert httpx.get(server.url + path).status_code == 404


def test_one_that_everybody_uses_waits_in_one_queue(tmp_path_factory: pytest.TempPathFactory) -> None:
    few = {"waiting": 9, "waiting_per_key": 1}
    directory = tmp_path_factory.mktemp("queue")
    with served(None, directory, engine={"max_num_seqs": 1}, queue=few) as server, ThreadPoolExecutor(5) as threads:
        done = list(threads.map(lambda _: ask(server.client(), max_tokens=30), range(5)))
    assert [answer.usage.completion_tokens for answer in done] == [30] * 5


def test_without_any_settings_the_server_does_not_start() -> None:
    with pytest.raises(UserError, match="RTS_GUARD is not set"):
        GuardMiddleware(lambda *_: None)  # type: ignore[arg-type]

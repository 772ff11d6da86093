"""Which replica gets a request, where there are several: the real HAProxy in front of servers that say who they are."""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from apps.guard.settings import Bounds
from runtime_env.haproxy import affinity
from tests.e2e.emulated import wait_for
from tests.runtime_env.real_haproxy import own_ports, started, status, write_config

Messages = list[dict[str, Any]]
CLIENT = httpx.Client(trust_env=False, timeout=20, limits=httpx.Limits(max_connections=None))
SYSTEM = {"role": "system", "content": "Be brief. " * 200}


class Named(BaseHTTPRequestHandler):
    """Answers with its server's port; a POST to /slow only when the test lets it."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for each answer
    go_on = threading.Event()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        if "slow" in self.headers:
            self.go_on.wait(20)
        self._send()

    def do_GET(self) -> None:
        self._send()

    def _send(self) -> None:
        body = str(self.connection.getsockname()[1]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """One that takes many connections at once."""

    request_queue_size = 64


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    made = [Server(("127.0.0.1", 0), Named) for _ in range(8)]
    for server in made:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made
    for server in made:
        server.shutdown()


@contextmanager
def balanced(directory: Path, servers: Sequence[Server]) -> Iterator[str]:
    """Address of an HAProxy in front of these."""
    ports = own_ports()
    directory.mkdir(exist_ok=True)
    config = write_config(directory, ports, *(server.server_address[1] for server in servers))
    url = f"http://127.0.0.1:{ports['front']}"
    with started(config, ports):
        wait_for(lambda: status(url) == 200, 20, "HAProxy to answer")
        yield url


@pytest.fixture(scope="module")
def url(servers: list[Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with balanced(tmp_path_factory.mktemp("haproxy"), servers) as address:
        yield address


def server_of(url: str, body: dict[str, Any], path: str = "/v1/chat/completions", **headers: str) -> str:
    answer = CLIENT.post(url + path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.text


def conversation(number: int, turns: int, system: dict[str, str] | None = SYSTEM, parts: bool = False) -> Messages:
    messages: Messages = [system] if system else []
    for turn in range(turns):
        text = f"question {turn} of conversation {number}"
        messages.append({"role": "user", "content": [{"type": "text", "text": text}] if parts else text})
        messages.append({"role": "assistant", "content": f"answer {turn}"})
    return messages[:-1]


@pytest.mark.parametrize("system", [SYSTEM, {"role": "developer", "content": "d"}, None])
@pytest.mark.parametrize("parts", [False, True])
def test_each_turn_of_a_conversation_goes_to_one_and_conversations_to_all(
    url: str, system: dict[str, str] | None, parts: bool
) -> None:
    chosen = Counter[str]()
    for number in range(60):
        bodies = [{"model": "m", "messages": conversation(number, turns, system, parts)} for turns in (1, 2, 4)]
        (server,) = {server_of(url, body) for body in bodies}
        chosen[server] += 1
    assert len(chosen) == 8
    assert max(chosen.values()) < 20


def test_a_prompt_is_known_by_its_beginning_and_a_session_by_its_header(url: str) -> None:
    documents = [f"document {number} " + "word " * 400 for number in range(30)]
    for document in documents:
        bodies = [{"prompt": f"{document}{question}"} for question in ("Why?", "Who was it?")]
        assert len({server_of(url, body, "/v1/completions") for body in bodies}) == 1
    assert len({server_of(url, {"prompt": document}, "/v1/completions") for document in documents}) > 4
    sessions = [server_of(url, {"messages": conversation(n, 1)}, **{"x-session-id": "one"}) for n in range(20)]
    assert len(set(sessions)) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": [1, 2, 3]},
        {"prompt": ["a", "b"]},
        {"messages": []},
        {"messages": [{"role": "system", "content": "s " * 100_000}, {"role": "user", "content": "u"}]},
        {},
    ],
)
def test_every_body_has_a_place(url: str, body: dict[str, Any]) -> None:
    assert len({server_of(url, body) for _ in range(8)}) == 1


@pytest.mark.parametrize("content", [b"", b"[", b'{"messages": [{"role": ', b"\0" * 100, b"\xff" * 200_000])
def test_a_body_that_is_no_json_is_left_to_the_app(url: str, content: bytes) -> None:
    assert CLIENT.post(f"{url}/v1/completions", content=content).status_code == 200


def test_one_that_leaves_takes_only_its_own_conversations_and_every_haproxy_agrees(
    url: str, servers: list[Server], tmp_path: Path
) -> None:
    bodies = [{"messages": conversation(number, 1)} for number in range(80)]
    before = [server_of(url, body) for body in bodies]
    gone = str(servers[-1].server_address[1])
    with balanced(tmp_path / "other", servers) as other, balanced(tmp_path / "fewer", servers[:-1]) as fewer:
        assert [server_of(other, body) for body in bodies] == before
        after = [server_of(fewer, body) for body in bodies]
    assert gone in before
    assert [old == new for old, new in zip(before, after, strict=True)] == [old != gone for old in before]


def test_a_hot_prompt_is_shared_when_its_server_has_too_much(url: str) -> None:
    Named.go_on.clear()
    with ThreadPoolExecutor(40) as pool, ExitStack() as at_end:
        at_end.callback(Named.go_on.set)
        waiting = [pool.submit(server_of, url, {"prompt": "hot"}, "/v1/completions", slow="1") for _ in range(40)]
        with pytest.raises(TimeoutError):
            waiting[0].result(2)
        Named.go_on.set()
        chosen = Counter(each.result(20) for each in waiting)
    assert max(chosen.values()) <= 40 / 8 * affinity._MAX_LOAD / 100 + 2
    assert len(chosen) >= 5


def test_without_a_choice_or_with_another_way_there_are_no_rules(tmp_path: Path) -> None:
    assert affinity.is_chosen(write_config(tmp_path, own_ports(), 1, 2).read_text())
    assert not affinity.is_chosen(write_config(tmp_path, own_ports(), 1).read_text())
    assert not affinity.is_chosen(write_config(tmp_path, own_ports(), 1, 2, balance_algorithm="random").read_text())


def test_a_body_has_the_guards_time() -> None:
    assert Bounds().body_s == affinity._BODY_S

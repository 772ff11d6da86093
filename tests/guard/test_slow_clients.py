"""Clients that send slowly, or half a request, or take nothing of their answer lose their place; others notice nothing."""

import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tests.guard.served import MODEL, Keys, Served, served, wait_for

BODY = json.dumps({"model": MODEL, "prompt": "hello", "max_tokens": 2}).encode()


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    keys = Keys(tmp_path / "keys.json")
    keys.make("alice", limits={"concurrent_requests": 3})
    keys.make("bob")
    return keys


@pytest.fixture
def server(keys: Keys, tmp_path: Path) -> Iterator[Served]:
    with served(keys, tmp_path, bounds={"body_s": 4, "send_s": 2, "request_s": 2}) as server:
        yield server


def connect(server: Served, *, receive_bytes: int | None = None) -> socket.socket:
    address = urlsplit(server.url)
    connection = socket.socket()
    if receive_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(15)
    connection.connect((address.hostname, address.port))
    return connection


def head(key: str | None, length: int) -> bytes:
    auth = f"authorization: Bearer {key}\r\n" if key else ""
    return (
        f"POST /v1/completions HTTP/1.1\r\nhost: x\r\n{auth}content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    ).encode()


def answers(server: Served, key: str) -> bool:
    headers = {**server.headers(key), "content-type": "application/json"}
    return httpx.post(f"{server.url}/v1/completions", content=BODY, headers=headers, timeout=5).status_code == 200


def status_of(connection: socket.socket) -> int:
    return int(connection.recv(65536).split(b" ", 2)[1])


def live(server: Served) -> int:
    return len(server.guard.housekeeping.live)


def test_a_body_that_drips_is_given_up_and_frees_its_place(server: Served, keys: Keys) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(server)) for _ in range(3)]
        for connection in slow:
            connection.sendall(head(keys.texts["alice"], len(BODY)) + BODY[:5])
        wait_for(lambda: live(server) == 3, 10, "the slow requests to be there")
        assert answers(server, keys.texts["bob"])
        slow[0].sendall(BODY[5:7])  # a byte now and then does not help
        assert [status_of(connection) for connection in slow] == [408] * 3
    assert answers(server, keys.texts["alice"])


REFUSED = {
    "no key": (b"/v1/completions", b"", 401),
    "a wrong key": (b"/v1/completions", b"authorization: Bearer wrong\r\n", 401),
    "a closed route": (b"/docs", b"", 404),
    "a large header": (b"/v1/completions", b"x-large: " + b"x" * 20_000 + b"\r\n", 431),
}


@pytest.mark.parametrize("case", REFUSED)
def test_nobody_waits_for_the_body_of_a_refused_request(server: Served, case: str) -> None:
    path, more, status = REFUSED[case]
    start = time.monotonic()
    with connect(server) as connection:
        connection.sendall(b"POST " + path + b" HTTP/1.1\r\nhost: x\r\n" + more + b"content-length: 10000\r\n\r\n{")
        answer = b""
        with suppress(ConnectionResetError, BrokenPipeError):
            while part := connection.recv(65536):
                answer += part
                connection.sendall(b" ")  # it goes on
    assert int(answer.split(b" ", 2)[1]) == status
    assert b"\r\nconnection: close\r\n" in answer
    assert time.monotonic() - start < 0.9, "as long as the body was dripping, or a second after it"


def test_a_refused_client_that_has_sent_all_keeps_its_connection(server: Served) -> None:
    with httpx.Client() as client:
        for _ in range(2):
            answer = client.post(f"{server.url}/v1/completions", content=BODY)
            assert (answer.status_code, "connection" in answer.headers) == (401, False)


def test_half_requests_in_hundreds_keep_nobody_out(server: Served, keys: Keys) -> None:
    def seconds() -> float:
        """Seconds of the quickest of ten, as the machine may be busy with other things."""
        took = []
        for _ in range(10):
            start = time.monotonic()
            assert answers(server, keys.texts["bob"])
            took.append(time.monotonic() - start)
        return min(took)

    alone_s = seconds()
    with ExitStack() as stack:
        for number in range(300):
            connection = stack.enter_context(connect(server))
            connection.sendall(head(keys.texts["alice"], len(BODY))[: 20 + number % 40])
        assert seconds() < 3 * alone_s + 1


def test_a_client_that_is_gone_without_a_word_frees_the_engine(server: Served, keys: Keys) -> None:
    body = json.dumps({"model": MODEL, "prompt": "hello", "max_tokens": 4000, "ignore_eos": True, "stream": True}).encode()
    connection = connect(server)
    connection.sendall(head(keys.texts["alice"], len(body)) + body)
    assert connection.recv(1024).startswith(b"HTTP/1.1 200")
    connection.close()
    assert server.simulation
    scheduler = server.simulation.scheduler
    wait_for(lambda: not scheduler.running and live(server) == 0, 5, "the engine to be free")


def test_a_stream_that_nobody_reads_is_ended(keys: Keys, tmp_path: Path) -> None:
    async def endless(_: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            while True:
                yield b"data: " + b"x" * 60_000 + b"\n\n"

        return StreamingResponse(chunks(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/v1/completions", endless, methods=["POST"])])
    with served(keys, tmp_path, app=app, bounds={"send_s": 2}) as server, connect(server, receive_bytes=4096) as connection:
        start = time.monotonic()
        connection.sendall(head(keys.texts["alice"], len(BODY)) + BODY)
        wait_for(lambda: live(server) == 1, 5, "the request")
        wait_for(lambda: live(server) == 0, 10, "the stream to be ended")
        assert 2 <= time.monotonic() - start < 8


def test_a_request_that_takes_too_long_is_told_so(server: Served, keys: Keys) -> None:
    body = {"model": MODEL, "prompt": "hello", "max_tokens": 4000, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, headers=server.headers(keys.texts["alice"])) as answer:
        last = [line for line in answer.iter_lines() if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "request_timeout"
    whole = httpx.post(
        f"{server.url}/v1/completions", json={**body, "stream": False}, headers=server.headers(keys.texts["alice"]), timeout=10
    )
    assert whole.status_code == 408
    assert server.simulation
    assert not server.simulation.scheduler.running

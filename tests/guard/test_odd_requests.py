"""Requests that a parser could read in two ways, paths that name a closed route differently, bodies by other names."""

import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.guard.served import MODEL, Keys, Served, events, post, served, wait_for

HIDDEN = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """One file and one server for all these tests."""
    keys = Keys(tmp_path_factory.mktemp("odd") / "keys.json")
    keys.make("alice")
    keys.make("root", admin=True)
    return keys


@pytest.fixture(scope="module")
def server(keys: Keys) -> Iterator[Served]:
    with served(keys, keys.path.parent) as server:
        yield server


def answers_to(server: Served, sent: bytes) -> bytes:
    """All that comes back until the server closes, or has nothing more to say."""
    address, received = urlsplit(server.url), b""
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=2) as connection:
        connection.sendall(sent)
        try:
            while part := connection.recv(65536):
                received += part
        except (TimeoutError, ConnectionResetError):
            pass
    return received


FRAMINGS = {
    "a length and chunks": b"content-length: %d\r\ntransfer-encoding: chunked" % (5 + len(HIDDEN)),
    "chunks by another name": b"transfer-encoding: xchunked\r\ncontent-length: 5",
    "chunks with a space before": b"transfer-encoding : chunked\r\ncontent-length: 5",
    "chunks on a folded line": b"transfer-encoding:\r\n chunked\r\ncontent-length: 5",
    "two lengths": b"content-length: 5\r\ncontent-length: %d" % (5 + len(HIDDEN)),
    "a length with a sign": b"content-length: +5",
    "a length that is none": b"content-length: 0x5",
    "a zero byte": b"content-length: 5\r\nx-odd: a\x00b",
}


@pytest.mark.parametrize("case", FRAMINGS)
def test_a_request_hidden_in_another_is_answered_to_nobody(server: Served, keys: Keys, case: str) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: Bearer "
    sent = head + keys.texts["root"].encode() + b"\r\n" + FRAMINGS[case] + b"\r\n\r\n0\r\n\r\n" + HIDDEN
    received = answers_to(server, sent)
    assert received.startswith(b"HTTP/1.1 4"), received[:200]
    assert b"vllm:" not in received
    assert b"HTTP/1.1 5" not in received
    assert b" 200 OK" not in received


PATHS = [
    *(
        "/metrics",
        "/%6detrics",
        "/metrics/",
        "//metrics",
        "/./metrics",
        "/metrics%00",
        "/metrics;x=1",
        "/metrics%2f",
        "/METRICS",
    ),
    *("/v1/../metrics", "/v1/models/../../metrics", "/v1/models/%2e%2e/%2e%2e/metrics", "/v1/models/..%2f..%2fmetrics"),
    *("http://x/metrics", "/\\metrics", "/v1/models/x\r\n\r\nGET /metrics HTTP/1.1"),
]


@pytest.mark.parametrize("path", PATHS)
def test_no_other_name_of_a_closed_path_opens_it(server: Served, keys: Keys, path: str) -> None:
    head = f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {keys.texts['alice']}\r\n\r\n"
    received = answers_to(server, head.encode())
    assert received.startswith(b"HTTP/1.1 4"), received[:200]
    assert b"vllm:" not in received


def test_a_path_by_its_escaped_letters_is_the_same_path(server: Served, keys: Keys) -> None:
    assert httpx.get(f"{server.url}/v1/%6dodels").status_code == 401
    assert httpx.get(f"{server.url}/v1/%6dodels", headers=server.headers(keys.texts["alice"])).status_code == 200
    assert httpx.get(f"{server.url}//v1/models", headers=server.headers(keys.texts["alice"])).status_code == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "CONNECT", "PROPFIND"])
def test_a_method_that_is_not_open_stays_so_by_another_header(server: Served, keys: Keys, method: str) -> None:
    key = server.headers(keys.texts["alice"])
    assert httpx.request(method, f"{server.url}/v1/models", headers=key).status_code in (400, 405)
    overridden = httpx.get(f"{server.url}/v1/models", headers={**key, "x-http-method-override": method})
    assert overridden.json()["data"][0]["id"] == MODEL


def test_websockets_are_closed(server: Served, keys: Keys) -> None:
    upgrade = (
        "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA=="
    )
    head = f"GET /v1/models HTTP/1.1\r\nhost: x\r\n{upgrade}\r\nauthorization: Bearer {keys.texts['root']}\r\n\r\n"
    assert answers_to(server, head.encode()).startswith(b"HTTP/1.1 403")


def test_chunks_are_a_body_like_any_other(keys: Keys, tmp_path: Path) -> None:
    body = json.dumps({"model": MODEL, "prompt": "hello", "max_tokens": 3, "ignore_eos": True, "stream": True}).encode()
    with served(keys, tmp_path, bounds={"body_bytes": 1000}) as server:
        headers = {**server.headers(keys.texts["alice"]), "content-type": "application/json"}

        def chunked(whole: bytes) -> httpx.Response:
            parts = (whole[at : at + 7] for at in range(0, len(whole), 7))
            return httpx.post(f"{server.url}/v1/completions", content=parts, headers=headers)

        assert len(events(chunked(body).text)) == 4
        assert chunked(body + b" " * 1000).status_code == 413


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16", "", "multipart/form-data"]
)
def test_a_body_is_judged_whatever_its_client_calls_it(server: Served, keys: Keys, kind: str) -> None:
    other = {"model": MODEL, "prompt": "x", "n": 99}
    assert post(server, keys.texts["alice"], other, **{"content-type": kind}).status_code == 400


def test_a_key_for_one_model_is_that_on_any_route(keys: Keys, tmp_path: Path) -> None:
    async def reads_json(request: Request) -> Response:
        return JSONResponse(json.loads(await request.body()))

    mine = keys.make("mine", models=["mine"])
    app = Starlette(routes=[Route("/v1/other", reads_json, methods=["POST"])])
    with served(keys, tmp_path, app=app, routes=["/v1/*"]) as server:
        for kind in ("application/json", "text/plain", "multipart/form-data"):
            assert post(server, mine, {"model": "another"}, "/v1/other", **{"content-type": kind}).status_code == 404
        assert post(server, mine, {"model": "mine"}, "/v1/other").json() == {"model": "mine"}


@pytest.mark.parametrize("path", ["/tokenize", "/v1/chat/completions"])
def test_no_route_fetches_what_a_client_names(server: Served, keys: Keys, path: str) -> None:
    image = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/computeMetadata/v1/"}}
    answer = post(server, keys.texts["alice"], {"model": MODEL, "messages": [{"role": "user", "content": [image]}]}, path)
    assert (answer.status_code, "data: URLs" in answer.text) == (400, True)


def test_the_last_of_several_values_is_judged_as_it_is_what_the_engine_takes(keys: Keys, tmp_path: Path) -> None:
    with served(keys, tmp_path, limits={"max_tokens": 10}) as server:
        head = f'{{"model": "{MODEL}", "prompt": "x", "ignore_eos": true, "max_tokens": 5, '
        for last in ('"max_tokens": 11}', '"max\\u005ftokens": 11}'):
            assert post(server, keys.texts["alice"], (head + last).encode()).status_code == 400
        fewer = post(server, keys.texts["alice"], (head + '"max_tokens": 3}').encode())
        assert fewer.json()["usage"]["completion_tokens"] == 3


def test_what_a_client_sent_writes_no_lines_of_its_own_in_the_log(keys: Keys, tmp_path: Path, log: io.StringIO) -> None:
    async def repeats(request: Request) -> Response:
        return Response(b"Traceback (most recent call last):\n" + await request.body(), 400)

    app = Starlette(routes=[Route("/v1/completions", repeats, methods=["POST"])])
    with served(keys, tmp_path, app=app) as server:
        post(server, keys.texts["alice"], json.dumps({"model": MODEL, "prompt": "x"}, indent=1).encode())
    wait_for(lambda: "was answered 400" in log.getvalue(), 5, "the reason in the log")
    lines = log.getvalue().splitlines()
    assert len([line for line in lines if "prompt" in line or "Traceback" in line]) == 1

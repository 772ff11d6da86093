"""Requests that would be had for less than they cost: large bodies, token ids, clients that leave, other keys' prompts."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.guard.served import MODEL, Keys, Served, post, served, wait_for

CHUNK = b'data: {"id":"1","choices":[{"index":0,"text":"a","finish_reason":null}]}\n\n'
ABORT = b'data: {"id":"1","choices":[{"index":0,"text":"","finish_reason":"abort"}]}\n\n'
LAST = b'data: {"id":"1","choices":[{"index":0,"text":"","finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys.json")


def remaining(server: Served, key: str) -> int:
    answer = httpx.get(f"{server.url}/v1/models", headers=server.headers(key))
    return int(answer.headers["x-ratelimit-remaining-tokens"])


NASTY = {
    "brackets": b'{"model": "m", "x": [' + b"[]," * 11_000_000 + b"1]}",
    "text": b'{"model": "m", "prompt": "' + b"a" * 32_000_000 + b'"}',
    "quotes": b'{"model": "m", "x": [' + b'"",' * 11_000_000 + b"1]}",
    "deep": b'{"x":' + b"[" * 16_000_000 + b"]" * 16_000_000 + b"}",
}


@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize"])
@pytest.mark.parametrize("kind", NASTY)
def test_a_body_as_large_as_may_be_holds_nobody_up(tmp_path: Path, path: str, kind: str) -> None:
    with served(None, tmp_path) as server, ThreadPoolExecutor(1) as beside:
        large = beside.submit(post, server, None, NASTY[kind], path)
        slowest = 0.0
        while not large.done():
            began = time.perf_counter()
            assert httpx.get(f"{server.url}/v1/models").status_code == 200
            slowest = max(slowest, time.perf_counter() - began)
        assert large.result().status_code in (400, 413)
        assert slowest < 2


def test_tokenize_is_charged(keys: Keys, tmp_path: Path) -> None:
    key = keys.make("alice", limits={"tokens_per_minute": 10_000})
    with served(keys, tmp_path) as server:
        assert post(server, key, {"model": MODEL, "prompt": "x " * 8000}, "/tokenize").status_code == 200
        assert remaining(server, key) < 7000
        assert post(server, key, {"model": MODEL, "prompt": "x " * 16000}, "/tokenize").status_code == 429


def test_token_ids_are_counted_one_by_one(keys: Keys, tmp_path: Path) -> None:
    key = keys.make("alice", limits={"context_tokens": 100})
    with served(keys, tmp_path) as server:
        body = {"model": MODEL, "prompt": [5] * 99, "max_tokens": 2}
        assert post(server, key, body).json()["error"]["code"] == "context_length_exceeded"


def test_events_of_many_tokens_are_not_for_keys_whose_tokens_are_counted(keys: Keys, tmp_path: Path) -> None:
    key = keys.make("alice", limits={"tokens_per_minute": 10_000})
    with served(keys, tmp_path) as server:
        body = {"model": MODEL, "prompt": "hi", "max_tokens": 400, "stream": True, "stream_interval": 300}
        assert post(server, key, body).json()["error"]["param"] == "stream_interval"


async def works_until_its_client_leaves(request: Request) -> Response:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return Response()


def test_an_answer_that_nobody_waited_for_is_charged_as_it_may_have_been_computed(keys: Keys, tmp_path: Path) -> None:
    key = keys.make("alice", limits={"tokens_per_minute": 100_000})
    app = Starlette(routes=[Route("/v1/completions", works_until_its_client_leaves, methods=["POST"])])
    with served(keys, tmp_path, app=app, routes=["/v1/*"]) as server:
        body = {"model": MODEL, "prompt": "hi", "max_tokens": 50_000}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/completions", json=body, headers=server.headers(key), timeout=0.3)
        wait_for(lambda: not server.guard.housekeeping.live, 5, "the request to end")
        assert remaining(server, key) < 60_000


def cached(answer: httpx.Response) -> int:
    return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


@pytest.mark.parametrize(("setting", "seen"), [("per_key", 0), ("shared", 768)])
def test_what_another_key_asked_does_not_show(keys: Keys, tmp_path: Path, setting: str, seen: int) -> None:
    alice, bob = keys.make("alice"), keys.make("bob")
    body = {"model": MODEL, "prompt": " ".join(f"word{i}" for i in range(900)), "max_tokens": 1}
    with served(keys, tmp_path, cache_salt=setting) as server:
        assert cached(post(server, alice, body)) == 0
        assert cached(post(server, alice, body)) >= 768
        assert min(cached(post(server, bob, body)), 768) == seen
        assert cached(post(server, bob, {**body, "cache_salt": "alice"})) == 0


def engine(*events: bytes) -> Starlette:
    """An engine that gives an answer up."""

    async def completions(request: Request) -> Response:
        if (await request.json()).get("stream"):
            return StreamingResponse(iter(events), media_type="text/event-stream")
        choice: dict[str, Any] = {"index": 0, "text": "a", "finish_reason": "abort"}
        return JSONResponse({"id": "1", "choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})

    return Starlette(routes=[Route("/v1/completions", completions, methods=["POST"])])


@pytest.mark.parametrize("events", [(CHUNK, CHUNK, ABORT, DONE), (CHUNK, CHUNK + ABORT + DONE), (CHUNK, CHUNK)], ids=len)
def test_an_answer_that_the_engine_gave_up_never_looks_finished(tmp_path: Path, events: tuple[bytes, ...]) -> None:
    with served(None, tmp_path, app=engine(*events)) as server:
        text = post(server, None, {"model": "m", "prompt": "hi", "stream": True}).text
        assert text.count('"text":"a"') == 2
        assert '"type": "server_error"' in text
        assert "[DONE]" not in text
        whole = post(server, None, {"model": "m", "prompt": "hi"})
        assert (whole.status_code, whole.json()["error"]["code"]) == (500, "aborted")


def test_a_stream_that_ends_as_it_should_is_passed_on_as_it_is(tmp_path: Path) -> None:
    event = b'data: {"id":"1","choices":[{"index":0,"text":"abort","finish_reason":null}]}\n\n'
    with served(None, tmp_path, app=engine(CHUNK, event, LAST, DONE)) as server:
        assert post(server, None, {"model": "m", "prompt": "hi", "stream": True}).content == CHUNK + event + LAST + DONE


@pytest.mark.parametrize("events", [(CHUNK, DONE), (CHUNK, LAST, DONE), (CHUNK + LAST + DONE,)], ids=len)
def test_a_stream_of_which_a_choice_has_no_end_never_looks_finished(tmp_path: Path, events: tuple[bytes, ...]) -> None:
    with served(None, tmp_path, app=engine(*events)) as server:
        text = post(server, None, {"model": "m", "prompt": "hi", "stream": True, "n": 2}).text
        assert '"type": "server_error"' in text
        assert "[DONE]" not in text

"""A body over the limit gets 413 in OpenAI form, declared or streamed, and the app behind never sees all of it."""

from collections.abc import Iterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from apps.guard.bodies import BodyLimit


async def echo_length(request: Request) -> Response:
    try:
        body = await request.body()
    except Exception:  # as frameworks do: any failure to read a body is a 400
        return PlainTextResponse("unreadable", 400)
    return PlainTextResponse(str(len(body)))


@pytest.fixture
def client() -> httpx.AsyncClient:
    app = BodyLimit(Starlette(routes=[Route("/", echo_length, methods=["POST"])]), max_bytes=1000)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def chunks(count: int) -> "Iterator[bytes]":  # type: ignore[misc]
    for _ in range(count):
        yield b"x" * 100


def run(coroutine: object) -> httpx.Response:
    import asyncio

    return asyncio.run(coroutine)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_bodies_within_the_limit_pass(client: httpx.AsyncClient, size: int) -> None:
    assert run(client.post("/", content=b"x" * size)).text == str(size)


def test_declared_size_over_the_limit(client: httpx.AsyncClient) -> None:
    answer = run(client.post("/", content=b"x" * 1001))
    assert answer.status_code == 413
    assert "larger than 1000 bytes" in answer.json()["error"]["message"]


def test_streamed_size_over_the_limit(client: httpx.AsyncClient) -> None:
    answer = run(client.post("/", content=chunks(20)))
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"


def test_streamed_size_at_the_limit_passes(client: httpx.AsyncClient) -> None:
    assert run(client.post("/", content=chunks(10))).text == "1000"

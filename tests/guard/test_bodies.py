"""A body over the limit gets 413 in OpenAI form, declared or streamed, and the app behind never sees any of it."""

from collections.abc import Iterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.guard.served import Served, served

PATH = "/v1/models"  # any that is open, and whose fields nobody reads
MULTIPART = {"content-type": "multipart/form-data; boundary=x"}


async def echo_length(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    app = Starlette(routes=[Route(PATH, echo_length, methods=["POST"])])
    with served(None, tmp_path_factory.mktemp("bodies"), app=app, bounds={"body_bytes": 1000}) as server:
        yield server


def send(server: Served, body: bytes | Iterator[bytes]) -> httpx.Response:
    return httpx.post(server.url + PATH, content=body, headers=MULTIPART)


def chunks(count: int) -> Iterator[bytes]:
    yield from [b"x" * 100] * count


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_bodies_within_the_limit_pass(server: Served, size: int) -> None:
    assert send(server, b"x" * size).text == str(size)


def test_declared_size_over_the_limit(server: Served) -> None:
    answer = send(server, b"x" * 1001)
    assert answer.status_code == 413
    assert "larger than 1000 bytes" in answer.json()["error"]["message"]


def test_streamed_size_over_the_limit(server: Served) -> None:
    answer = send(server, chunks(20))
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"


def test_streamed_size_at_the_limit_passes(server: Served) -> None:
    assert send(server, chunks(10)).text == "1000"

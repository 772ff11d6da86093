"""What clients of a replica see when its slice breaks: an error in OpenAI form, never a hang."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import httpx
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from apps.slice.fail_fast import RETRY_AFTER_S, FailFastMiddleware


async def _plain(_: object) -> Response:
    return JSONResponse({"ok": True})


async def _never(_: object) -> Response:
    await asyncio.Event().wait()
    raise AssertionError


async def _stream(_: object) -> Response:
    async def chunks() -> object:
        yield b"data: 1\n\n"
        await asyncio.Event().wait()

    return StreamingResponse(chunks(), media_type="text/event-stream")  # type: ignore[arg-type]


APP = Starlette(routes=[Route("/plain", _plain), Route("/never", _never), Route("/stream", _stream)])


def _ask(path: str, when_to_break: Callable[[asyncio.Event], Awaitable[None]]) -> httpx.Response:
    async def ask() -> httpx.Response:
        broken = asyncio.Event()
        breaking = asyncio.ensure_future(when_to_break(broken))
        await asyncio.sleep(0)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(FailFastMiddleware(APP, broken)), base_url="http://slice"
        ) as http:
            answer = await asyncio.wait_for(http.get(path), 5)
        await breaking
        return answer

    return asyncio.run(ask())


async def _never_breaks(_: asyncio.Event) -> None:
    return


async def _at_once(broken: asyncio.Event) -> None:
    broken.set()


async def _soon(broken: asyncio.Event) -> None:
    await asyncio.sleep(0.05)
    broken.set()


def test_a_whole_slice_answers_as_if_the_gate_were_not_there() -> None:
    answer = _ask("/plain", _never_breaks)
    assert (answer.status_code, answer.json()) == (200, {"ok": True})


def test_a_request_that_waits_for_its_first_byte_gets_503() -> None:
    answer = _ask("/never", _soon)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == str(RETRY_AFTER_S)
    assert answer.json()["error"]["type"] == "service_unavailable_error"


def test_a_new_request_to_a_broken_slice_gets_503() -> None:
    answer = _ask("/plain", _at_once)
    assert answer.status_code == 503
    assert "host" in answer.json()["error"]["message"]


def test_a_running_stream_ends_with_an_error_event() -> None:
    answer = _ask("/stream", _soon)
    first, last = [line for line in answer.text.splitlines() if line]
    assert first == "data: 1"
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == 503

"""Request bodies within a size and a time, so that no client makes a server hold more than it may, or wait for ever."""

import asyncio
import contextlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.guard.answers import Refusal, json_headers

_DISCARD_S, _SILENT_S = 10.0, 1.0


class ClientLeftError(Exception):
    """The connection is gone; there is nobody to answer."""


async def read_body(declared: bytes, receive: Receive, most: int) -> bytes:
    """The whole body. `declared` is its content-length, if the client gave one. Housekeeping ends one that does not come.

    Raises:
        Refusal: 413 for one that is larger than `most` bytes, declared or sent.
        ClientLeftError: before it had come.
    """
    if _as_number(declared) > most:
        raise too_large(most)
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise too_large(most)
        more = message.get("more_body", False)
    return b"".join(parts)


def replaying(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body which was read already, and then what comes after it: the client's leaving."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def discard_body(receive: Receive, most: int) -> None:
    """Read what is left, within bounds: a client that still sends does not see an answer, only a broken connection."""
    end = asyncio.get_running_loop().time() + _DISCARD_S
    more = True
    with contextlib.suppress(TimeoutError):
        while more and most > 0 and asyncio.get_running_loop().time() < end:
            async with asyncio.timeout(_SILENT_S):
                message = await receive()
            most -= len(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False)


def _as_number(content_length: bytes) -> int:
    return int(content_length[:18]) if content_length.isdigit() else 0


def too_large(most: int) -> Refusal:
    return Refusal(413, f"The request body is larger than {most} bytes, the most this server takes.", "request_too_large")


class BodyLimit:
    """All that is left of the guard where it is off: 413 in OpenAI form for a large body, declared or streamed."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif _as_number(dict(scope["headers"]).get(b"content-length", b"")) > self._max_bytes:
            await self._refuse(receive, send)
        else:
            await self._app_with_counted_body(scope, receive, send)

    async def _app_with_counted_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise _TooLargeError
            return message

        async def unless_too_large(message: Message) -> None:
            if received <= self._max_bytes:  # else a framework made its own answer of our exception
                await send(message)

        with contextlib.suppress(_TooLargeError):
            await self._app(scope, counted, unless_too_large)
        if received > self._max_bytes:
            await self._refuse(receive, send)

    async def _refuse(self, receive: Receive, send: Send) -> None:
        await discard_body(receive, 4 * self._max_bytes)
        refusal = too_large(self._max_bytes)
        body = refusal.body()
        await send({"type": "http.response.start", "status": refusal.status, "headers": json_headers(body, {})})
        await send({"type": "http.response.body", "body": body})


class _TooLargeError(Exception):
    pass

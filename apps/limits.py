"""A bound on request bodies, as pure ASGI middleware: vLLM's own server and Ray's classic ingress both load it."""

import contextlib
import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 32 * 1024 * 1024  # a long context and some images; a JSON body is held in memory several times over


class BodyLimit:
    """Answers 413 in OpenAI form to a body of more than `max_bytes`, declared or streamed; never holds such a body."""

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif _declared_bytes(scope) > self._max_bytes:
            await _discard_body(receive)
            await self._refuse(send)
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
            await _discard_body(receive)
            await self._refuse(send)

    async def _refuse(self, send: Send) -> None:
        message = f"The request body is larger than {self._max_bytes} bytes, the most this server takes."
        body = json.dumps({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": 413}}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _TooLargeError(Exception):
    pass


def _declared_bytes(scope: Scope) -> int:
    value: Any = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(value) if value.isdigit() else 0


async def _discard_body(receive: Receive) -> None:
    """Read the rest: a client that still sends does not see an answer, only a broken connection."""
    while (message := await receive())["type"] == "http.request" and message.get("more_body"):
        pass

"""Fail requests that a broken replica can no longer answer: pure ASGI middleware around the model's own server.

Without it a request that runs when a host is lost would hang until Serve has stopped the replica, and one that comes after the
engine has exited would get 500, as if the request were at fault.
"""

import asyncio
import contextlib
import json

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

RETRY_AFTER_S = 30  # a replica on a whole slice with its weights at hand is back in about that time
_MESSAGE = "A host of the model's TPU slice is lost, or its engine has exited; the model is being restarted. Try again later."
_ERROR = {"error": {"message": _MESSAGE, "type": "service_unavailable_error", "param": None, "code": 503}}


class FailFastMiddleware:
    """Returns 503 with Retry-After once `broken` is set, and ends running responses with an error in OpenAI form."""

    def __init__(self, app: ASGIApp, broken: asyncio.Event) -> None:
        self._app = app
        self._broken = broken

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._broken.is_set():
            await _refusal()(scope, receive, send)
        else:
            await self._until_broken(scope, receive, send)

    async def _until_broken(self, scope: Scope, receive: Receive, send: Send) -> None:
        content_type: bytes | None = None

        async def note_and_send(message: Message) -> None:
            nonlocal content_type
            if message["type"] == "http.response.start":
                content_type = dict(message.get("headers", [])).get(b"content-type", b"")
            await send(message)

        response = asyncio.ensure_future(self._app(scope, receive, note_and_send))
        broken = asyncio.ensure_future(self._broken.wait())
        try:
            await asyncio.wait({response, broken}, return_when=asyncio.FIRST_COMPLETED)
            if response.done():
                return await response
            response.cancel()
            with contextlib.suppress(BaseException):  # whatever the engine raises while it is torn down
                await response
            await (_refusal()(scope, receive, send) if content_type is None else _end_stream(send, content_type))
        finally:
            broken.cancel()
            response.cancel()


def _refusal() -> JSONResponse:
    return JSONResponse(_ERROR, 503, {"Retry-After": str(RETRY_AFTER_S)})


async def _end_stream(send: Send, content_type: bytes) -> None:
    is_event_stream = content_type.startswith(b"text/event-stream")
    final = f"data: {json.dumps(_ERROR)}\n\n".encode() if is_event_stream else b""
    await send({"type": "http.response.body", "body": final})

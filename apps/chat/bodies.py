"""Bodies of requests to the chat: within bytes, a time and a number, so that no crowd of slow clients keeps others out."""

import asyncio

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from apps.guard.answers import Refusal
from apps.guard.bodies import read_body, replaying


class BodyReads:
    """A reader of bodies of one kind. Where too many are under way, the one that has taken longest gives way to the newest."""

    def __init__(self, max_bytes: int, seconds: float, number: int) -> None:
        self._max_bytes, self._seconds, self._number = max_bytes, seconds, number
        self._running: dict[asyncio.Timeout, None] = {}

    async def read(self, request: Request) -> bytes:
        """The whole body.

        Raises:
            Refusal: 413 or 408.
            ClientLeftError: the client left before the body had arrived.
        """
        if len(self._running) >= self._number:
            oldest = next(iter(self._running))
            del self._running[oldest]
            oldest.reschedule(asyncio.get_running_loop().time())
        timer = asyncio.timeout(self._seconds)
        try:
            async with timer:
                self._running[timer] = None
                return await read_body(request.headers.get("content-length", "").encode(), request.receive, self._max_bytes)
        except TimeoutError:
            raise Refusal(408, f"The request's body did not arrive within {self._seconds:g} s.", "request_timeout") from None
        finally:
            self._running.pop(timer, None)


async def read_form(request: Request, body: bytes, max_parts: int) -> FormData:
    """The form in a body that was read. Raises `Refusal` 400 for no form, or one with more than `max_parts` files or fields."""
    try:
        return await Request(request.scope, replaying(body, request.receive)).form(max_files=max_parts, max_fields=max_parts)
    except (MultiPartException, HTTPException, ValueError):  # of Starlette, of Starlette within an app, of python-multipart
        raise Refusal(400, f"This is not a form, or has more than {max_parts} files or fields.", "invalid_body") from None

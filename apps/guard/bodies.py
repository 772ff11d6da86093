"""Request bodies within a size and a time, so that no client makes a server hold more than it may, or wait for ever."""

import asyncio
import contextlib

from starlette.types import Message, Receive

from apps.guard.answers import Refusal

_DISCARD_S = 0.05


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


async def discard_body(receive: Receive, most: int) -> bool:
    """Read what is there of a body that nobody wants; True if that was all of it.

    A client that has sent its whole request finds the answer on a connection that goes on. One that still sends may see the
    connection break first; to wait for it would let anybody keep one of the replica's places.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_S):
            while most > 0:
                message = await receive()
                if not message.get("more_body", False):
                    return True
                most -= len(message["body"])
    return False


def _as_number(content_length: bytes) -> int:
    return int(content_length[:18]) if content_length.isdigit() else 0


def too_large(most: int) -> Refusal:
    return Refusal(413, f"The request body is larger than {most} bytes, the most this server takes.", "request_too_large")

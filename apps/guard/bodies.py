"""Bodies, read whole: requests within a size, a time and a structure, so that no client makes a server hold too much, or wait
for ever; and answers to requests of our own."""

import asyncio
import contextlib
import json
import math
import re
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope

from apps.guard.answers import Refusal, bad_value

_DISCARD_S = 0.05
_SUSPECT_NUMBER = re.compile(rb"\d{19}|\d[eE]\+?\d{3}")
"""Digits that may be a number out of range: then the parser checks each number, which takes longer."""
_QUOTES_PER_ITEM = 4  # a name and a value, both strings
_DELETED = bytes(set(range(256)) - set(b"[]{}"))
_SQUARE = bytes.maketrans(b"{}", b"[]")


class ClientLeftError(Exception):
    """The connection is gone; there is nobody to answer."""


async def read_body(declared: bytes, receive: Receive, max_bytes: int) -> bytes:
    """The whole body. `declared` is its content-length, if the client gave one. Housekeeping ends one that does not come.

    Raises:
        Refusal: 413 for one that is larger than `max_bytes` bytes, declared or sent.
        ClientLeftError: before it had come.
    """
    if _as_number(declared) > max_bytes:
        raise too_large(max_bytes)
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > max_bytes:
            raise too_large(max_bytes)
        more = message.get("more_body", False)
    return b"".join(parts)


def may_be_json(content_type: bytes, body: bytes) -> bool:
    """Whatever the client calls it: some handlers look only at the body."""
    return body != b"" and not content_type.startswith(b"multipart/")


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


async def discard_body(receive: Receive, max_bytes: int) -> bool:
    """Read what is there of a body that nobody wants; True if that was all of it.

    A client that has sent its whole request finds the answer on a connection that goes on. One that still sends may see the
    connection break first; to wait for it would let anybody keep one of the replica's places.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_S):
            while max_bytes > 0:
                message = await receive()
                if not message.get("more_body", False):
                    return True
                max_bytes -= len(message["body"])
    return False


async def whole_answer(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[int, bytes]:
    """(status, body) of what an app behind answers to a request of our own; 500 where it answers nothing."""
    status, parts = 500, []

    async def keep(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)
        parts.append(message.get("body", b""))

    await app(scope, receive, keep)
    return status, b"".join(parts)


def _as_number(content_length: bytes) -> int:
    return int(content_length[:18]) if content_length.isdigit() else 0


def too_large(max_bytes: int) -> Refusal:
    return Refusal(
        413, f"The request body is larger than {max_bytes} bytes, which is this server's limit.", "request_too_large"
    )


def parse_json(raw: bytes, max_items: int, max_depth: int) -> dict[str, Any]:
    """The JSON object in a body, by the same parser that the server behind uses.

    Raises:
        Refusal: 400 for what is no JSON object, for more than `max_items` values, for nesting deeper than `max_depth` levels,
            and for a number that is not finite or does not fit 64 bits, at any depth.
    """
    outside = _check_structure(raw, max_items, max_depth)
    decoder = _CAREFUL if _SUSPECT_NUMBER.search(outside) else _PLAIN
    try:
        text = raw.decode()
        fields = decoder.decode(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(fields, ensure_ascii=False).encode()  # half of a character, which no tokenizer takes
    except (ValueError, RecursionError):
        raise bad_value("The request body is not valid JSON in UTF-8.") from None
    if not isinstance(fields, dict):
        raise bad_value("The request body must be a JSON object.")
    return fields


def _check_structure(raw: bytes, max_items: int, max_depth: int) -> bytes:
    """Count brackets and commas outside of texts, and return all that is there. A body that is no JSON may pass: the parser
    refuses it.
    """
    bare = raw.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in raw else raw
    if bare.count(b'"') > _QUOTES_PER_ITEM * max_items:
        raise _too_many(max_items)
    outside = b"".join(bare.split(b'"')[::2])
    if sum(outside.count(mark) for mark in (b",", b"[", b"{")) > max_items:
        raise _too_many(max_items)
    brackets = outside.translate(_SQUARE, _DELETED)
    for _ in range(max_depth):  # each round takes the innermost level away
        left = brackets.replace(b"[]", b"")
        if len(left) == len(brackets):
            return outside  # none is left, or they do not match: then it is no JSON
        brackets = left
    if brackets:
        raise bad_value(f"The request body is nested deeper than {max_depth} levels.")
    return outside


def _int64(digits: str) -> int:
    value = int(digits) if len(digits) <= 20 else 2**63
    if not -(2**63) <= value < 2**63:
        raise bad_value(f"{digits[:40]} is out of range: integers must fit into 64 bits.")
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise bad_value(f"{digits[:40]} is out of range: numbers must fit into 64-bit floats.")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity, which Python takes and JSON has not


_PLAIN = json.JSONDecoder(parse_constant=_refuse_constant)
_CAREFUL = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_int64, parse_float=_finite)


def _too_many(max_items: int) -> Refusal:
    return bad_value(f"The request body has more than {max_items} values, which is more than the model's context can hold.")

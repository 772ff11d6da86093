"""A request's JSON body, parsed only once its structure is known to be small, which is found at the speed of C."""

import json
import math
import re
from typing import Any

from apps.guard.answers import Refusal, bad_value

_SUSPECT_NUMBER = re.compile(rb"\d{19}|\d[eE]\+?\d{3}")
"""Of a number that may be out of range: then the parser looks at each number, which takes longer."""
_QUOTES_PER_ITEM = 4  # a name and a value, both strings
_DELETED = bytes(set(range(256)) - set(b"[]{}"))
_SQUARE = bytes.maketrans(b"{}", b"[]")


def parse_json(raw: bytes, most_items: int, most_depth: int) -> dict[str, Any]:
    """The JSON object in a body, by the same parser that the server behind uses.

    Raises:
        Refusal: 400 for what is no JSON object, for more than `most_items` values, for nesting deeper than `most_depth` levels,
            and for a number that is not finite or does not fit 64 bits, at any depth.
    """
    outside = _check_structure(raw, most_items, most_depth)
    decoder = _CAREFUL if _SUSPECT_NUMBER.search(outside) else _PLAIN
    try:
        text = raw.decode()
        found = decoder.decode(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(found, ensure_ascii=False).encode()  # half of a character, which no tokenizer takes
    except (ValueError, RecursionError):
        raise bad_value("The request body is not valid JSON in UTF-8.") from None
    if not isinstance(found, dict):
        raise bad_value("The request body must be a JSON object.")
    return found


def _check_structure(raw: bytes, most_items: int, most_depth: int) -> bytes:
    """Count brackets and commas outside of texts, and return all that is there. A body that is no JSON may pass: the parser
    refuses it.
    """
    bare = raw.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in raw else raw
    if bare.count(b'"') > _QUOTES_PER_ITEM * most_items:
        raise _too_many(most_items)
    outside = b"".join(bare.split(b'"')[::2])
    if sum(outside.count(mark) for mark in (b",", b"[", b"{")) > most_items:
        raise _too_many(most_items)
    brackets = outside.translate(_SQUARE, _DELETED)
    for _ in range(most_depth):  # each round takes the innermost level away
        left = brackets.replace(b"[]", b"")
        if len(left) == len(brackets):
            return outside  # none is left, or they do not match: then it is no JSON
        brackets = left
    if brackets:
        raise bad_value(f"The request body is nested deeper than {most_depth} levels.")
    return outside


def _int64(digits: str) -> int:
    value = int(digits) if len(digits) <= 20 else 2**63
    if not -(2**63) <= value < 2**63:
        raise bad_value(f"{digits[:40]} is a number out of any range: integers must fit 64 bits.")
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise bad_value(f"{digits[:40]} is a number out of any range.")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity, which Python takes and JSON has not


_PLAIN = json.JSONDecoder(parse_constant=_refuse_constant)
_CAREFUL = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_int64, parse_float=_finite)


def _too_many(most: int) -> Refusal:
    return bad_value(f"The request body has more than {most} values, more than the model's context can hold.")

"""What holds of any value in a request's JSON, at any depth: numbers are such that nobody behind the guard trips over them."""

import math
from collections.abc import Iterator
from typing import Any

from apps.guard.answers import Refusal

MOST = 2**31 - 1  # more no engine computes, and larger numbers fail in places where nobody expects them


def bad(message: str, param: str | None = None) -> Refusal:
    return Refusal(400, message, "invalid_value", param=param)


def check_numbers(value: Any, name: str) -> None:
    """Raise `Refusal` 400 for a number at any depth that is none to others: 1e999, or more digits than 64 bits have."""
    for one in leaves(value):
        if (type(one) is float and math.isinf(one)) or (type(one) is int and not -(2**63) <= one < 2**63):
            raise bad(f"{name[:40]} is or has a number out of any range.", name[:40])


def are_token_ids(values: list[Any]) -> bool:
    """Whether they are all integers that an engine could take. A prompt may have 100,000."""
    return not values or (set(map(type, values)) == {int} and min(values) >= 0 and max(values) <= MOST)


def leaves(value: Any) -> Iterator[Any]:
    """All that is no list and no object, at any depth; the names in objects too."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
        else:
            yield one

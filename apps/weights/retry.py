"""Try a read or a write again while its failure is one that may pass; say for how long, and stop."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from apps.common.errors import OperationError

Result = TypeVar("Result")
_LONGEST_PAUSE_S = 30.0
STALL_S = 20.0
"""A range that brings no byte for so long is given up and asked for anew."""


class TransientError(Exception):
    """May be gone at the next try: a stall, a broken connection, a busy server. `after_s` is what the server asked to wait."""

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class StalledError(TransientError):
    """Nothing came for too long."""


def with_retries(
    what: str,
    attempt: Callable[[], Result],
    *,
    tries: int = 5,
    pause_s: float = 0.5,
    on_retry: Callable[[TransientError], None] = lambda _: None,
) -> Result:
    """The attempt's result; after a `TransientError`, of which `on_retry` is told, it is made again, with pauses that double.

    Raises:
        OperationError: the last try failed as well; it names `what` and the failure.
    """
    jitter = random.Random(what)  # noqa: S311 - spreads the retries of many parts, no secret
    for number in range(1, tries + 1):
        try:
            return attempt()
        except TransientError as error:
            if number == tries:
                raise OperationError(f"{what}: {error}; {tries} tries, then given up") from error
            on_retry(error)
            pause = min(_LONGEST_PAUSE_S, pause_s * 2 ** (number - 1)) * jitter.uniform(0.5, 1.0)
            time.sleep(pause if error.after_s is None else error.after_s)
    raise AssertionError("tries is 1 or more")

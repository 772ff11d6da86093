"""Retry a read or a write after failures that may pass, with growing pauses and a limit."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from apps.common.errors import OperationError

Result = TypeVar("Result")
_MAX_PAUSE_S = 30.0
STALL_S = 20.0
"""A range that delivers no byte for so long is dropped and requested again."""


class TransientError(Exception):
    """A failure that may pass: a stall, a broken connection, a busy server. `after_s` is the wait that the server asked for."""

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class StalledError(TransientError):
    """No bytes came for too long."""


def with_retries(
    what: str,
    attempt: Callable[[], Result],
    *,
    tries: int = 5,
    pause_s: float = 0.5,
    on_retry: Callable[[TransientError], None] = lambda _: None,
) -> Result:
    """Return the attempt's result; after a `TransientError`, call `on_retry` and try again, with pauses that double.

    Raises:
        OperationError: the last try failed as well; the message names `what` and the failure.
    """
    jitter = random.Random(what)  # noqa: S311 - spreads the retries of many parts, no secret
    for number in range(1, tries + 1):
        try:
            return attempt()
        except TransientError as error:
            if number == tries:
                raise OperationError(f"{what}: {error}; gave up after {tries} tries") from error
            on_retry(error)
            pause = min(_MAX_PAUSE_S, pause_s * 2 ** (number - 1)) * jitter.uniform(0.5, 1.0)
            time.sleep(pause if error.after_s is None else error.after_s)
    raise AssertionError("tries is 1 or more")

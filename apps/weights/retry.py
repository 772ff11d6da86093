"""Retry a read or a write after failures that may pass, with growing pauses and a limit."""

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from apps.common.errors import OperationError

Result = TypeVar("Result")
_PAUSES_S = (0.5, 1.0, 2.0, 4.0)
"""At most, before each further try."""
_LONGEST_WAIT_S = 300.0
"""What a server may ask to wait: the hub's window of requests is 5 minutes."""
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
    what: str, attempt: Callable[[], Result], on_retry: Callable[[TransientError], None] = lambda _: None
) -> Result:
    """Return the attempt's result; after a `TransientError`, call `on_retry` and try again, with pauses that double.

    Raises:
        OperationError: the last try failed as well, or the server asks to wait for more than 5 minutes; the message names
            `what` and the failure.
    """
    jitter = random.Random(what)  # noqa: S311 - spreads the retries of many parts, no secret
    pauses_s = iter(_PAUSES_S)
    while True:
        try:
            return attempt()
        except TransientError as error:
            pause_s = next(pauses_s, None)
            if error.after_s is not None and error.after_s > _LONGEST_WAIT_S:
                raise OperationError(f"{what}: {error}, and asks to wait {error.after_s:.0f} s: try again then") from error
            if pause_s is None:
                raise OperationError(f"{what}: {error}; gave up after {len(_PAUSES_S) + 1} tries") from error
            on_retry(error)
            time.sleep(pause_s * jitter.uniform(0.5, 1.0) if error.after_s is None else error.after_s)


def seconds_of(retry_after: str | None) -> float | None:
    """Seconds of a Retry-After header, which has a number or a date; None for anything else."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after or "") - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if seconds < float("inf") else None

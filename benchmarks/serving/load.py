"""Sends one load: open-loop (at times that do not wait for answers) or closed-loop (so many clients that do).

Latency counts from the intended time, so that a request which waited for this process or for a connection shows it; one that
was due while too many others ran is an error, not a pause of the clock.
"""

import asyncio
import gc
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from benchmarks.serving.answer import Answer, Asked
from benchmarks.serving.client import Client
from benchmarks.serving.histogram import Histogram
from benchmarks.serving.tally import Tally
from benchmarks.serving.workload import Conversation

_LEAD_S = 0.05  # from now to the first request, for the loop to be ready
_SPARE_FILES = 64
_NO_LIMIT = 1_000_000
_AFTER_ERROR_S = 0.1  # else a server that refuses at once is asked thousands of times a second


@dataclass(frozen=True)
class Limits:
    """Where a load ends: after so many requests or seconds, whichever comes first."""

    requests: int
    duration_s: float


class Sender:
    """Has conversations with a server and tallies each answer. `sent` counts requests, `most_in_flight` those at once.

    `late` is how long (ms) after its intended time each open-loop request was taken up here, before any connection is made.
    """

    def __init__(self, client: Client, tally: Tally, said: Callable[["Sender"], None]) -> None:
        self._client, self._tally, self._said = client, tally, said
        self.sent = self.in_flight = self.most_in_flight = 0
        self.late = Histogram()
        self._most_open = _open_as_many_files_as_allowed() - _SPARE_FILES

    async def open_loop(self, offsets: Iterable[float], work: Iterator[Conversation], limits: Limits) -> None:
        """Begin a conversation at each offset (seconds from now); return when all have ended."""
        self._tally.start = start = time.perf_counter() + _LEAD_S
        running: set[asyncio.Task[bool]] = set()
        # zip takes an offset first, so that no conversation is lost
        for offset, conversation in zip(offsets, work, strict=False):
            if self.sent >= limits.requests:
                break
            asked = conversation.next(None)  # made before it is due
            while (wait := start + offset - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            assert asked
            self.late.add_one(1000 * (time.perf_counter() - start - offset))
            task = asyncio.ensure_future(self._converse(conversation, asked, start + offset))
            running.add(task)
            task.add_done_callback(running.discard)
            await asyncio.sleep(0)  # a sender that is late must not starve the answers
        await asyncio.gather(*running)

    async def closed_loop(self, clients: int, work: Iterator[Conversation], limits: Limits) -> None:
        """`clients` conversations at once, until the limits; return when all have ended."""
        self._tally.start = start = time.perf_counter()
        end = start + limits.duration_s

        async def client() -> None:
            intended = start
            while self.sent < limits.requests and intended < end and (conversation := next(work, None)):
                asked = conversation.next(None)
                assert asked
                if not await self._converse(conversation, asked, intended):
                    await asyncio.sleep(_AFTER_ERROR_S)
                intended = time.perf_counter()

        await asyncio.gather(*(client() for _ in range(clients)))

    async def _converse(self, conversation: Conversation, asked: Asked | None, intended: float) -> bool:
        """Whether it came to its end."""
        while asked:
            answer = await self._ask(asked, intended, conversation.keep_text)
            self._tally.take(answer)
            self._said(self)
            if answer.error or answer.usage is None:
                return False
            intended = time.perf_counter()
            asked = conversation.next(answer)
        return True

    async def _ask(self, asked: Asked, intended: float, keep_text: bool) -> Answer:
        self.sent += 1
        if self.in_flight >= self._most_open:
            return Answer(asked, intended, error=f"not sent: {self.in_flight} requests were open (limit of files)")
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._client.ask(asked, intended, keep_text=keep_text or self._tally.wants_text)
        finally:
            self.in_flight -= 1


def settle_memory() -> None:
    """Before a load: what is there already is not searched by the garbage collector again, which would stop all streams."""
    gc.collect()
    gc.freeze()


def _open_as_many_files_as_allowed() -> int:
    """How many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return _NO_LIMIT if hard == resource.RLIM_INFINITY else hard

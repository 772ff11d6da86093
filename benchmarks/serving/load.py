"""Sends one load: open-loop (at times that do not wait for responses) or closed-loop (so many clients that do).

Latency counts from the intended time, so that a request which waited for this process or for a connection shows it; one that
was due while too many others ran is an error, not a pause of the clock. `Watch` measures whether this process keeps up, so that
a slow client is not taken for a slow server.
"""

import asyncio
import contextlib
import gc
import resource
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator

import psutil

from benchmarks.serving.client import Client
from benchmarks.serving.histogram import Histogram
from benchmarks.serving.request import Request, Response
from benchmarks.serving.tally import Tally
from benchmarks.serving.workload import Conversation

_LEAD_S = 0.05  # from now to the first request, for the loop to be ready
_SPARE_FILES = 64
_NO_LIMIT = 1_000_000
_AFTER_ERROR_S = 0.1  # else a server that refuses at once gets thousands of requests a second
_TICK_S = 0.01
_SAMPLES = 10


class Sender:
    """Has conversations with a server and tallies each response. `sent` counts requests, `max_in_flight` those at once.

    `late` is how long (ms) after its intended time each open-loop request was begun here, before any connection is made.
    """

    def __init__(self, client: Client, tally: Tally, report: Callable[["Sender"], None]) -> None:
        self._client, self._tally, self._report = client, tally, report
        self.sent = self.in_flight = self.max_in_flight = 0
        self.late = Histogram()
        self._max_open = _open_as_many_files_as_allowed() - _SPARE_FILES

    async def open_loop(self, offsets: Iterable[float], work: Iterator[Conversation], max_requests: float) -> None:
        """Begin a conversation at each offset (seconds from now), up to so many requests; return when all have ended."""
        self._tally.start = start = time.perf_counter() + _LEAD_S
        running: set[asyncio.Task[bool]] = set()
        # zip takes an offset first, so that no conversation is lost
        for offset, conversation in zip(offsets, work, strict=False):
            if self.sent >= max_requests:
                break
            request = conversation.next(None)  # made before it is due
            while (wait := start + offset - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            self.late.add_one(1000 * (time.perf_counter() - start - offset))
            task = asyncio.ensure_future(self._converse(conversation, request, start + offset))
            running.add(task)
            task.add_done_callback(running.discard)
            await asyncio.sleep(0)  # a sender that is late must not starve the responses
        await asyncio.gather(*running)

    async def closed_loop(self, clients: int, work: Iterator[Conversation], max_requests: float, duration_s: float) -> None:
        """Have `clients` conversations at once, up to so many requests or seconds; return when all have ended."""
        self._tally.start = start = time.perf_counter()
        end = start + duration_s

        async def client() -> None:
            intended = start
            while self.sent < max_requests and intended < end and (conversation := next(work, None)):
                if not await self._converse(conversation, conversation.next(None), intended):
                    await asyncio.sleep(_AFTER_ERROR_S)
                intended = time.perf_counter()

        await asyncio.gather(*(client() for _ in range(clients)))

    async def _converse(self, conversation: Conversation, request: Request | None, intended: float) -> bool:
        """Whether it came to its end."""
        while request:
            response = await self._send(request, intended, conversation.keep_text)
            self._tally.add(response)
            self._report(self)
            if response.error or response.usage is None:
                return False
            intended = time.perf_counter()
            request = conversation.next(response)
        return True

    async def _send(self, request: Request, intended: float, keep_text: bool) -> Response:
        self.sent += 1
        if self.in_flight >= self._max_open:
            return Response(request, intended, error=f"not sent: {self.in_flight} requests were open (limit of files)")
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            return await self._client.send(request, intended, keep_text=keep_text or self._tally.wants_text)
        finally:
            self.in_flight -= 1


class Watch:
    """`lag` is in ms: how late timers of the event loop were. Memory in MB, at up to ten moments spread over the run."""

    def __init__(self) -> None:
        self.lag = Histogram()
        self.cpu_share = 0.0
        self.rss_mb: list[float] = []

    async def run(self) -> None:
        """Watch until cancelled."""
        started, cpu = time.perf_counter(), time.process_time()
        process, between, ticks = psutil.Process(), 1, 0
        while True:
            due = time.perf_counter() + _TICK_S
            await asyncio.sleep(_TICK_S)
            now = time.perf_counter()
            self.lag.add_one(1000 * (now - due))
            self.cpu_share = (time.process_time() - cpu) / (now - started)
            ticks += 1
            if ticks % (100 * between) == 1:
                self.rss_mb.append(round(process.memory_info().rss / 1e6, 1))
                if len(self.rss_mb) == 2 * _SAMPLES:
                    self.rss_mb, between = self.rss_mb[::2], 2 * between


@contextlib.asynccontextmanager
async def watching() -> AsyncIterator[Watch]:
    watch = Watch()
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def settle_memory() -> None:
    """Keep the garbage collector from searching again, under the load, what is there already: it would stop all streams."""
    gc.collect()
    gc.freeze()


def _open_as_many_files_as_allowed() -> int:
    """Raise the limit of open files to the highest allowed, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return _NO_LIMIT if hard == resource.RLIM_INFINITY else hard

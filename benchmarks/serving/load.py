"""Sends one load: open-loop (at times that do not wait for responses) or closed-loop (so many clients that do).

Latency counts from the intended time, so that a request which waited for this process or for a connection shows it; one that
was due while too many others ran is an error, not a pause of the clock. `Watch` measures whether this process keeps up, so that
a slow client is not taken for a slow server.
"""

import asyncio
import contextlib
import gc
import itertools
import resource
import time
from array import array
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import psutil

from benchmarks.serving.client import Client
from benchmarks.serving.request import Request, Response
from benchmarks.serving.result import ClientState
from benchmarks.serving.workload import Conversation

_SPARE_FILES = 64
_NO_LIMIT = 1_000_000
_AFTER_ERROR_S = 0.1  # else a server that refuses at once gets thousands of requests a second
_TICK_S = 0.01
_SAMPLES = 10


class Sender:
    """Has conversations with a server and hands on each response. `sent` counts requests, `used` conversations."""

    def __init__(self, client: Client, take: Callable[[Response], bool], *, start: float, end: float) -> None:
        """`take` says whether a response was good; no request is begun after `end`."""
        self._client, self._take, self._start, self._end = client, take, start, end
        self.sent = self.used = self.in_flight = 0
        self.keep_text = True
        self._max_open = _open_as_many_files_as_allowed() - _SPARE_FILES

    async def open_loop(self, offsets: Iterable[float], work: Iterator[Conversation]) -> None:
        """Begin a conversation at each offset (seconds from the start); return when all have ended."""
        running: set[asyncio.Task[bool]] = set()
        # zip takes an offset first, so that no conversation is lost
        for offset, conversation in zip(offsets, work, strict=False):
            self.used += 1
            request = next(conversation)  # made before it is due
            while (wait := self._start + offset - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.ensure_future(self._converse(conversation, request, self._start + offset))
            running.add(task)
            task.add_done_callback(running.discard)
            await asyncio.sleep(0)  # a sender that is late must not starve the responses
        await asyncio.gather(*running)

    async def closed_loop(self, clients: int, work: Iterator[Conversation], max_requests: float) -> None:
        """Have `clients` conversations at once, up to so many requests; return when all have ended."""
        await asyncio.sleep(max(0.0, self._start - time.perf_counter()))

        async def client() -> None:
            intended = self._start
            while self.sent < max_requests and intended < self._end and (conversation := next(work, None)):
                self.used += 1
                if not await self._converse(conversation, next(conversation), intended):
                    await asyncio.sleep(_AFTER_ERROR_S)
                intended = time.perf_counter()

        await asyncio.gather(*(client() for _ in range(clients)))

    async def _converse(self, conversation: Conversation, request: Request, intended: float) -> bool:
        """Whether it came to its end."""
        while True:
            response = await self._send(request, intended)
            if not self._take(response):
                return False
            intended = time.perf_counter()
            if response.usage is None or intended >= self._end:
                return True
            try:
                request = conversation.send(response)
            except StopIteration:
                return True

    async def _send(self, request: Request, intended: float) -> Response:
        self.sent += 1
        if self.in_flight >= self._max_open:
            error = f"not sent: {self.in_flight} requests were open (limit of files)"
            return Response(request, intended, ended=time.perf_counter(), error=error)
        self.in_flight += 1
        try:
            return await self._client.send(request, intended, keep_text=request.keep_text or self.keep_text)
        finally:
            self.in_flight -= 1


class Watch:
    """Notes each pause of the event loop, and what the process used and waited for."""

    def __init__(self) -> None:
        self._pauses = array("d")
        self._rss_mb: list[float] = []
        self._began, self._cpu, self._waited = time.perf_counter(), time.process_time(), _waited_s()

    async def run(self) -> None:
        """Watch until cancelled."""
        process = psutil.Process()
        for tick in itertools.count():
            due = time.perf_counter() + _TICK_S
            await asyncio.sleep(_TICK_S)
            self._pauses.append(max(0.0, time.perf_counter() - due))
            if tick % 100 == 0:
                self._rss_mb.append(round(process.memory_info().rss / 1e6, 1))

    def state(self, connections: int) -> ClientState:
        elapsed, waited = time.perf_counter() - self._began, _waited_s()
        pauses = np.frombuffer(self._pauses, float)
        return ClientState(
            cpu_share=round((time.process_time() - self._cpu) / elapsed, 3),
            wait_share=None if waited is None or self._waited is None else round((waited - self._waited) / elapsed, 3),
            late_p50_ms=round(1000 * lateness(pauses, elapsed, 0.5), 3),
            late_p99_ms=round(1000 * lateness(pauses, elapsed, 0.99), 3),
            longest_pause_ms=round(1000 * float(pauses.max(initial=0.0)), 3),
            connections=connections,
            rss_mb=self._rss_mb[:: 1 + len(self._rss_mb) // _SAMPLES],
        )


def lateness(pauses: np.ndarray, elapsed: float, share: float) -> float:
    """Seconds within which that share of all moments would be noticed, as a moment in a pause waits for its end.

    It weighs time, not pauses: one of half a second in a thousand that are short counts for half a second.
    """
    low, high = 0.0, float(pauses.max(initial=0.0))
    for _ in range(40):
        middle = (low + high) / 2
        later = np.maximum(pauses - middle, 0.0).sum() / elapsed
        low, high = (middle, high) if later > 1 - share else (low, middle)
    return high


def _waited_s() -> float | None:
    """How long the main thread has waited for a core, by Linux's scheduler; None elsewhere."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    return None


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

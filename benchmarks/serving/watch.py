"""Watches this process during a load, so that a client which was too slow is not taken for a server that was."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil

from benchmarks.serving.histogram import Histogram

_TICK_S = 0.01
_SAMPLES = 10


class Watch:
    """`lag` is in ms: how late timers of the event loop were. Memory in MB, at up to ten moments spread over the run."""

    def __init__(self) -> None:
        self.lag = Histogram()
        self.cpu_share = 0.0
        self.rss_mb: list[float] = []

    async def run(self) -> None:
        """Watch until cancelled."""
        started, cpu = time.perf_counter(), time.process_time()
        process, between = psutil.Process(), 1
        ticks = 0
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


@asynccontextmanager
async def watching() -> AsyncIterator[Watch]:
    watch = Watch()
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

"""The client's own state under a load: whether it keeps up, so that a slow client is not taken for a slow server."""

import asyncio
import contextlib
import gc
import itertools
import resource
import time
from array import array
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.serving.result import ClientState

_NO_LIMIT = 1_000_000
_TICK_S = 0.01
_SAMPLES = 10


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


def open_as_many_files_as_allowed() -> int:
    """Raise the limit of open files to the highest allowed, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return _NO_LIMIT if hard == resource.RLIM_INFINITY else hard


def worst_of(states: Sequence[ClientState]) -> ClientState:
    """The state of several processes: each measure by the process that has it worst."""
    worst: dict[str, Any] = {}
    for name in ClientState.model_fields:
        values = [getattr(state, name) for state in states if getattr(state, name) is not None]
        worst[name] = max(values, default=None)
    return ClientState(**{**worst, "connections": sum(state.connections for state in states), "rss_mb": states[0].rss_mb})

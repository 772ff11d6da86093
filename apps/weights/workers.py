"""As many threads as the network leaves time for: a distant server wants many connections, a near one only keeps cores busy."""

import os
import threading
import time
from collections.abc import Callable

MOST = 64
_FIRST = 4
_STEP_S = 0.1
_BUSY = 0.5  # of the cores: then the network is not what the threads wait for


def run_in_threads(work: Callable[[], None], most: int = MOST) -> None:
    """Run `work` in a few threads, and in twice as many, up to `most`, while this process leaves half of its cores idle.

    Returns when the last one has ended. `work` ends by itself when there is nothing left, and raises nothing.
    """
    threads: list[threading.Thread] = []
    cores = len(os.sched_getaffinity(0))
    used_s = 0.0
    while not threads or any(thread.is_alive() for thread in threads):
        if used_s < _BUSY * cores * _STEP_S:
            threads += [_started(work) for _ in range(min(len(threads) or _FIRST, most - len(threads)))]
        before_s = time.process_time()
        _join(threads, _STEP_S)
        used_s = time.process_time() - before_s


def _started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def _join(threads: list[threading.Thread], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))

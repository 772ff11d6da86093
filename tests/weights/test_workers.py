"""Threads that come as long as they would otherwise wait for the network."""

import os
import queue
import threading
import time
from collections.abc import Callable

import pytest

from apps.weights.prefetch import run_in_threads


def test_threads_that_wait_are_joined_by_more() -> None:
    assert highest_at_once(lambda: time.sleep(0.1)) == 16


def test_busy_threads_stay_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(time, "process_time", time.monotonic)  # all of a core, also where other programs leave little of it
    assert highest_at_once(compute) == 4


def highest_at_once(piece: Callable[[], None]) -> int:
    left: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(120):
        left.put(number)
    lock, running, highest = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal running, highest
        with lock:
            running += 1
            highest = max(highest, running)
        try:
            while True:
                left.get_nowait()
                piece()
        except queue.Empty:
            with lock:
                running -= 1

    run_in_threads(work, max_threads=16)
    assert running == 0
    return highest


def compute() -> None:
    end = time.thread_time() + 0.01
    while time.thread_time() < end:
        pass

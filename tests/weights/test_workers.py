"""Threads that come as long as they would otherwise wait for the network."""

import os
import queue
import threading
import time
from collections.abc import Callable

import pytest

from apps.weights.prefetch import run_in_threads


def test_threads_that_wait_are_joined_by_more() -> None:
    assert most_at_once(lambda: time.sleep(0.1)) == 16


def test_busy_threads_stay_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(time, "process_time", time.monotonic)  # all of a core, also where other programs leave little of it
    assert most_at_once(compute) == 4


def most_at_once(piece: Callable[[], None]) -> int:
    left: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(120):
        left.put(number)
    lock, running, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        try:
            while True:
                left.get_nowait()
                piece()
        except queue.Empty:
            with lock:
                running -= 1

    run_in_threads(work, most=16)
    assert running == 0
    return most


def compute() -> None:
    end = time.thread_time() + 0.01
    while time.thread_time() < end:
        pass

"""Windows of a run's time, never more than a fixed number: when they run out, two become one."""

from itertools import accumulate

import numpy as np

from benchmarks.serving.answer import Answer
from benchmarks.serving.result import Window

_MOST = 120
_BATCH = 8192  # times of tokens that are kept before they are counted


class Timeline:
    """Offsets are seconds from the run's start."""

    def __init__(self) -> None:
        self.window_s = 0.25
        self._windows: list[Window] = []
        self._came: list[float] = []
        self._weights: list[tuple[float, int]] = []

    def at(self, offset: float) -> Window:
        """The window of that moment."""
        while offset >= self.window_s * _MOST:
            self._halve()
        index = max(0, int(offset / self.window_s))
        while len(self._windows) <= index:
            self._windows.append(Window())
        return self._windows[index]

    def add_tokens(self, answer: Answer, start: float) -> None:
        """Count an answer's tokens, by usage, evenly over the events that brought them."""
        if answer.first is None or answer.last is None or answer.usage is None:
            return
        self.at(answer.last - start)
        self._came += accumulate(answer.gaps, initial=answer.first - start)
        self._weights.append((answer.usage.completion_tokens / answer.events, answer.events))
        if len(self._came) > _BATCH:
            self._count()

    def windows(self) -> list[Window]:
        """All of them, when the run is over."""
        self._count()
        for window in self._windows:
            window.output_tokens = round(window.output_tokens, 1)
        return self._windows

    def _count(self) -> None:
        if self._came:
            tokens, events = zip(*self._weights, strict=True)
            places = np.clip((np.array(self._came) / self.window_s).astype(int), 0, len(self._windows) - 1)
            for window, count in zip(self._windows, np.bincount(places, np.repeat(tokens, events)).tolist(), strict=False):
                window.output_tokens += count
            self._came, self._weights = [], []

    def _halve(self) -> None:
        self._count()
        self.window_s *= 2
        merged = self._windows[::2]
        for even, odd in zip(merged, self._windows[1::2], strict=False):
            even.merge(odd)
        self._windows = merged

"""Windows of a run's time, at most a fixed number: when they run out, each two become one."""

from itertools import accumulate

import numpy as np

from benchmarks.serving.request import Response
from benchmarks.serving.result import Window

_MAX_WINDOWS = 120
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
        while offset >= self.window_s * _MAX_WINDOWS:
            self._halve()
        index = max(0, int(offset / self.window_s))
        while len(self._windows) <= index:
            self._windows.append(Window())
        return self._windows[index]

    def add_tokens(self, response: Response, start: float) -> None:
        """Count a response's tokens, by usage, evenly over the events that brought them."""
        if response.first is None or response.last is None or response.usage is None:
            return
        self.at(response.last - start)
        self._came += accumulate(response.gaps, initial=response.first - start)
        self._weights.append((response.usage.completion_tokens / response.events, response.events))
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

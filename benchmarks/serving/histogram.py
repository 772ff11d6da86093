"""Counts of values in buckets 1 % wide: percentiles of any number of values within half a percent, in bounded memory."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_WIDTH = math.log(1.01)
_LEAST = 1e-6  # what is smaller counts as this: a time of zero has no logarithm


@dataclass(slots=True)
class Histogram:
    """Values of one kind, in the unit that the owner says. `least` and `most` are None as long as there is none."""

    buckets: dict[int, int] = field(default_factory=dict)
    total: float = 0.0
    least: float | None = None
    most: float | None = None

    @property
    def count(self) -> int:
        return sum(self.buckets.values())

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.buckets else None

    def add(self, values: Sequence[float] | NDArray[np.float64]) -> None:
        """Many at once."""
        if len(values):
            array = np.maximum(values, _LEAST)
            places, counts = np.unique(np.floor(np.log(array) / _WIDTH).astype(int), return_counts=True)
            self._count(dict(zip(places.tolist(), counts.tolist(), strict=True)))
            self._widen(float(array.sum()), float(array.min()), float(array.max()))

    def add_one(self, value: float) -> None:
        value = max(value, _LEAST)
        place = math.floor(math.log(value) / _WIDTH)
        self.buckets[place] = self.buckets.get(place, 0) + 1
        self._widen(value, value, value)

    def merge(self, other: "Histogram") -> None:
        """Take in the values of another one."""
        if other.least is not None and other.most is not None:
            self._count(other.buckets)
            self._widen(other.total, other.least, other.most)

    def percentile(self, percent: float) -> float | None:
        """By nearest rank; None of nothing."""
        rank, seen = max(1, math.ceil(self.count * percent / 100)), 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                return self._middle(bucket)
        return None

    def curve(self) -> tuple[list[float], list[float]]:
        """Values and the share of all that are at most so large, for a plot."""
        order = sorted(self.buckets)
        shares = np.cumsum([self.buckets[bucket] for bucket in order]) / max(1, self.count)
        return [self._middle(bucket) for bucket in order], shares.tolist()

    def _count(self, buckets: dict[int, int]) -> None:
        for place, number in buckets.items():
            self.buckets[place] = self.buckets.get(place, 0) + number

    def _middle(self, bucket: int) -> float:
        middle = math.exp((bucket + 0.5) * _WIDTH)
        return min(max(middle, self.least or 0.0), self.most or middle)

    def _widen(self, total: float, least: float, most: float) -> None:
        self.total += total
        if self.least is None or least < self.least:
            self.least = least
        if self.most is None or most > self.most:
            self.most = most

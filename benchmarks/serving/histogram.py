"""Counts of values in buckets 1 % wide: percentiles of any number of values within half a percent, in bounded memory."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_WIDTH = math.log(1.01)
_SMALLEST = 1e-6  # what is smaller counts as this: a time of zero has no logarithm


@dataclass(slots=True)
class Histogram:
    """Values of one kind, in a unit that the owner chooses. `minimum` and `maximum` are None as long as there is none."""

    buckets: dict[int, int] = field(default_factory=dict)
    total: float = 0.0
    minimum: float | None = None
    maximum: float | None = None

    @property
    def count(self) -> int:
        return sum(self.buckets.values())

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.buckets else None

    def add(self, values: Sequence[float] | NDArray[np.float64]) -> None:
        """Add many values at once."""
        if len(values):
            array = np.maximum(values, _SMALLEST)
            places, counts = np.unique(np.floor(np.log(array) / _WIDTH).astype(int), return_counts=True)
            self._count(dict(zip(places.tolist(), counts.tolist(), strict=True)))
            self._widen(float(array.sum()), float(array.min()), float(array.max()))

    def add_one(self, value: float) -> None:
        value = max(value, _SMALLEST)
        place = math.floor(math.log(value) / _WIDTH)
        self.buckets[place] = self.buckets.get(place, 0) + 1
        self._widen(value, value, value)

    def merge(self, other: "Histogram") -> None:
        """Add the values of another histogram."""
        if other.minimum is not None and other.maximum is not None:
            self._count(other.buckets)
            self._widen(other.total, other.minimum, other.maximum)

    def percentile(self, percent: float) -> float | None:
        """The percentile by nearest rank; None where there are no values."""
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
        return min(max(middle, self.minimum or 0.0), self.maximum or middle)

    def _widen(self, total: float, minimum: float, maximum: float) -> None:
        self.total += total
        if self.minimum is None or minimum < self.minimum:
            self.minimum = minimum
        if self.maximum is None or maximum > self.maximum:
            self.maximum = maximum

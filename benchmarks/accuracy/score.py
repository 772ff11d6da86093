"""Scores with their uncertainty, and whether two models that were asked the same differ by more than chance."""

import math
from dataclasses import dataclass

_Z = 1.96  # 95 %


@dataclass(frozen=True)
class Score:
    """`low` and `high` bound the share 95 % of the time (Wilson's interval)."""

    right: int
    asked: int
    low: float
    high: float

    @property
    def share(self) -> float:
        return self.right / self.asked


def score(right: int, asked: int) -> Score:
    """`asked` is at least 1."""
    share, spread = right / asked, _Z**2 / asked
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / asked + spread / (4 * asked))
    return Score(right, asked, max(0.0, middle - half), min(1.0, middle + half))


@dataclass(frozen=True)
class Difference:
    """Questions that only one of the two answered right; `p` is the chance of so uneven a split between equals."""

    only_first: int
    only_second: int
    p: float


def difference(first: list[bool], second: list[bool]) -> Difference:
    """An exact sign test on the questions where the two differ."""
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    total, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(total, count) for count in range(fewer + 1)) / 2**total
    return Difference(only_first, only_second, min(1.0, 2 * tail))

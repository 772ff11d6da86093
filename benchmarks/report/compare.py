"""Ratios of two runs with the same load, and how sure they are: a bootstrap over pieces of the runs' time.

Requests close in time share their fate, so that resampling single ones would promise too much; whole pieces are drawn instead.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.report.series import Series
from benchmarks.serving.result import Run, Window

_PIECES = 20
_MIN_PIECES = 8  # of fewer, an interval means nothing
_DRAWS = 2000
_PERCENTILES = {
    "ttft_p50_ms": ("ttft", 50),
    "ttft_p99_ms": ("ttft", 99),
    "tpot_p50_ms": ("tpot", 50),
    "tpot_p99_ms": ("tpot", 99),
}
_SUMS = {"output_tok_per_s": "output_tokens", "goodput_per_s": "good"}


@dataclass(frozen=True)
class Ratio:
    """`figure` of the second run over that of the first. `low` and `high` bound 95 %; None where the runs are too short."""

    load: str
    figure: str
    first: float
    second: float
    low: float | None
    high: float | None

    @property
    def value(self) -> float:
        return self.second / self.first

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 1."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high


def compare(first: Series, second: Series, seed: int = 0) -> list[Ratio]:
    """Ratios of all figures of the valid runs that both have, by load."""
    first_runs = {validated.run.load.label: validated.run for validated in first.valid}
    random = np.random.default_rng(seed)
    return [
        ratio
        for validated in second.valid
        if (run := first_runs.get(validated.run.load.label))
        for ratio in _ratios(run, validated.run, random)
    ]


def _ratios(first: Run, second: Run, random: np.random.Generator) -> list[Ratio]:
    ratios = []
    for figure in (*_PERCENTILES, *_SUMS):
        a, b = first.figures[figure], second.figures[figure]
        if a and b:
            low, high = _interval(_draws(first, figure, random), _draws(second, figure, random))
            ratios.append(Ratio(second.load.label, figure, a, b, low, high))
    return ratios


def _interval(first: NDArray[np.float64] | None, second: NDArray[np.float64] | None) -> tuple[float | None, float | None]:
    if first is None or second is None:
        return None, None
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.nanpercentile(second / first, [2.5, 97.5])
    return float(low), float(high)


def _draws(run: Run, figure: str, random: np.random.Generator) -> NDArray[np.float64] | None:
    """The figure in each of many draws of the run's pieces, with replacement."""
    pieces = _pieces(run)
    if len(pieces) < _MIN_PIECES:
        return None
    times = random.multinomial(len(pieces), [1 / len(pieces)] * len(pieces), _DRAWS)
    if figure in _SUMS:
        sums: NDArray[np.float64] = times @ np.array([float(getattr(piece, _SUMS[figure])) for piece in pieces])
        return sums / len(pieces) / (run.window_s * max(1, len(run.windows) // len(pieces)))
    name, percent = _PERCENTILES[figure]
    histograms = [getattr(piece, name) for piece in pieces]
    places = sorted({place for histogram in histograms for place in histogram.buckets})
    counts = np.array([[histogram.buckets.get(place, 0) for place in places] for histogram in histograms])
    shares = np.cumsum(times @ counts, axis=1)
    reached = shares >= shares[:, -1:] * percent / 100
    return np.array(1.01 ** (np.array(places)[reached.argmax(axis=1)] + 0.5), float)


def _pieces(run: Run) -> list[Window]:
    """The run's windows in which requests were due, joined to about _PIECES of one length."""
    due = [number for number, window in enumerate(run.windows) if window.requests]
    windows = run.windows[: due[-1] + 1] if due else []
    size = max(1, -(-len(windows) // _PIECES))
    pieces = []
    for start in range(0, len(windows) - size + 1, size):
        piece = Window()
        for window in windows[start : start + size]:
            piece.merge(window)
        pieces.append(piece)
    return pieces

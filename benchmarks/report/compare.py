"""How sure a figure is, and whether two results differ.

Within one run, an interval comes from a bootstrap over pieces of its time: requests close in time share their fate, so that
resampling single ones would promise too much. It says nothing of what differs from run to run; so a difference of two results
is called clear only from repeated runs, by Welch's t interval of the logarithms of their figures.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import mean, variance

import numpy as np
from numpy.typing import NDArray

from benchmarks.report.series import Series
from benchmarks.serving.figures import Requests, Times
from benchmarks.serving.result import PERCENTILES, Slo
from benchmarks.serving.validation import ValidatedRun

COMPARED = ("ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "tpot_p99_ms", "requests_per_s", "output_tok_per_s", "goodput_per_s")
MIN_REPEATS = 3
_PIECES, _MIN_PIECES = 20, 8  # of fewer, an interval means nothing
_DRAWS = 1000
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110)
"""Student's t for 95 % on both sides, with 1, 2, ... degrees of freedom."""


@dataclass(frozen=True)
class Ratio:
    """A figure of the second result over that of the first, under one load, with 95 % bounds; None: too few runs."""

    load: str
    figure: str
    first: float
    second: float
    bounds: tuple[float, float] | None

    @property
    def value(self) -> float:
        return self.second / self.first

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 1."""
        return self.bounds is not None and not self.bounds[0] <= 1 <= self.bounds[1]


def compare(first: Series, second: Series) -> list[Ratio]:
    """Ratios of all figures that valid runs of both have, by load; of repeated runs the geometric means."""
    ours, others = _values(first), _values(second)
    return [
        _ratio(load, figure, ours[load, figure], values) for (load, figure), values in others.items() if (load, figure) in ours
    ]


def _values(series: Series) -> dict[tuple[str, str], list[float]]:
    values: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for validated in series.valid:
        for figure in COMPARED:
            if value := validated.run.figures.get(figure):
                values[validated.run.load.label, figure].append(value)
    return values


def _ratio(load: str, figure: str, first: list[float], second: list[float]) -> Ratio:
    logs = [[log(value) for value in values] for values in (first, second)]
    centre = mean(logs[1]) - mean(logs[0])
    half = _half_width(logs[0], logs[1])
    bounds = None if half is None else (exp(centre - half), exp(centre + half))
    return Ratio(load, figure, exp(mean(logs[0])), exp(mean(logs[1])), bounds)


def _half_width(first: list[float], second: list[float]) -> float | None:
    """Half of Welch's 95 % interval of a difference of means; None with too few values."""
    if min(len(first), len(second)) < MIN_REPEATS:
        return None
    shares = [variance(values) / len(values) for values in (first, second)]
    total = sum(shares)
    if not total:
        return 0.0
    freedom = total**2 / sum(share**2 / (len(values) - 1) for share, values in zip(shares, (first, second), strict=True))
    return t_95(freedom) * sqrt(total)


def t_95(freedom: float) -> float:
    """Student's t for 95 % on both sides; between whole degrees of freedom the larger one, which promises less."""
    whole = max(1, int(freedom))
    return _T[whole - 1] if whole <= len(_T) else 1.96 + 2.5 / whole


def intervals(validated: ValidatedRun, slo: Slo, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % within one run by figure, where it was long enough."""
    requests = validated.requests
    if requests is None or not requests.ok:
        return {}
    pieces, count = _pieces(requests)
    if count < _MIN_PIECES:
        return {}
    times = np.random.default_rng(seed).multinomial(count, [1 / count] * count, _DRAWS)
    bounds: dict[str, tuple[float, float]] = {}
    for name in ("ttft", "tpot", "itl", "e2e"):
        bounds |= _of_times(name, requests.times(name), pieces, times)
    amounts = {"requests_per_s": np.ones(len(requests.ok)), "output_tok_per_s": requests.output_tokens}
    if slo.is_set:
        amounts["goodput_per_s"] = requests.good(slo)
    start, end = requests.window
    shares = requests.shares(np.linspace(start, end, count + 1))
    for name, each in amounts.items():
        low, high = np.percentile(times @ (each @ shares), [2.5, 97.5])
        bounds[name] = (float(low) / (end - start), float(high) / (end - start))
    return bounds


def _pieces(requests: Requests) -> tuple[NDArray[np.int64], int]:
    """The piece of the run's time in which each completed request was due, and how many pieces there are."""
    count = min(_PIECES, len(requests.ok) // 2)
    places = np.minimum((requests.started / requests.load_s * count).astype(int), count - 1)
    return np.maximum(places, 0), count


def _of_times(name: str, values: Times, pieces: NDArray[np.int64], times: NDArray[np.int64]) -> dict[str, tuple[float, float]]:
    """Intervals of a time's percentiles, from counts in buckets 1 % wide for each piece."""
    if not len(values.values):
        return {}
    buckets = np.floor(np.log(np.maximum(values.values, 1e-3)) / log(1.01)).astype(int)
    places, numbers = np.unique(buckets, return_inverse=True)
    counts = np.zeros((times.shape[1], len(places)))
    np.add.at(counts, (pieces[values.owners], numbers), values.weights)
    reached = np.cumsum(times @ counts, axis=1)
    bounds = {}
    for statistic, share in PERCENTILES.items():
        drawn = 1.01 ** (places[(reached >= reached[:, -1:] * share).argmax(axis=1)] + 0.5)
        low, high = np.percentile(drawn, [2.5, 97.5])
        bounds[f"{name}_{statistic}_ms"] = (float(low), float(high))
    return bounds


def repeated(runs: Sequence[ValidatedRun], figure: str) -> tuple[float, float] | None:
    """95 % of a figure from repeated runs of one load; None with too few."""
    values = [value for validated in runs if (value := validated.run.figures.get(figure))]
    if len(values) < MIN_REPEATS:
        return None
    half = t_95(len(values) - 1) * sqrt(variance(values) / len(values))
    return mean(values) - half, mean(values) + half

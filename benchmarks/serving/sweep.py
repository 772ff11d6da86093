"""The search for the highest rate within the SLO, and the knee of all that it measured."""

from collections.abc import Callable, Sequence

from benchmarks.serving.result import Best, Load, Run

ATTAINED = 0.9
"""Share of requests within the SLO that a rate needs to hold it, as in the DistServe paper (arXiv 2401.09670)."""
KEPT_UP = 0.95
"""Share of the offered rate that must be answered in the steady state: else a queue grows, and a longer run misses the SLO."""
_GROWTH = 2.0
_CLOSE = 1.1  # the sweep ends when the rate that holds and the one that does not are so close
MAX_STEPS = 14


def sweep(load: Load, measure: Callable[[Load, int], Run]) -> tuple[list[Run], Best | None]:
    """Measure growing rates from `load.rate` until one misses the SLO, then between; all runs, and the highest rate that holds.

    `measure` gets the load and how often this rate was measured before.
    """
    runs: list[Run] = []
    rate = load.rate
    assert rate
    while len(runs) < MAX_STEPS:
        rate = round(rate, 4)
        earlier = sum(run.load.rate == rate for run in runs)
        runs.append(measure(load.model_copy(update={"rate": rate}), earlier))
        holds, misses = _bounds(runs)
        if not holds or not misses:
            rate = rate * _GROWTH if holds else rate / _GROWTH
        elif misses / holds > _CLOSE:
            rate = (holds * misses) ** 0.5
        else:
            achieved = [run.figures["requests_per_s"] or 0.0 for run in runs if run.load.rate == holds]
            if len(achieved) > 1:
                return runs, Best(rate=holds, achieved_per_s=min(achieved), knee_per_s=knee(runs))
            rate = holds
    return runs, None


def _bounds(runs: Sequence[Run]) -> tuple[float | None, float | None]:
    """The highest rate that held whenever it was measured, and the lowest that missed, which is above it."""
    missed = {run.load.rate for run in runs if run.load.rate and not _holds(run)}
    misses = min(missed, default=None)
    held = [rate for run in runs if (rate := run.load.rate) and (misses is None or rate < misses)]
    return max(held, default=None), misses


def _holds(run: Run) -> bool:
    offered, achieved = run.figures["offered_per_s"] or 0.0, run.figures["requests_per_s"] or 0.0
    return (run.figures["attainment"] or 0.0) >= ATTAINED and achieved >= KEPT_UP * offered


def knee(runs: Sequence[Run]) -> float | None:
    """The offered rate with the most throughput for its latency (Kleinrock's power): beyond it a queue grows."""
    power = {
        run.load.rate: (run.figures["requests_per_s"] or 0.0) / latency
        for run in runs
        if run.load.rate and (latency := run.figures["e2e_p50_ms"])
    }
    return max(power, key=lambda rate: power[rate], default=None)

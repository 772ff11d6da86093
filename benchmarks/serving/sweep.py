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
    holds, misses, confirmed = None, None, None
    rate = load.rate
    assert rate
    while len(runs) < MAX_STEPS:
        rate = round(rate, 4)
        earlier = [run for run in runs if run.load.rate == rate]
        run = measure(load.model_copy(update={"rate": rate}), len(earlier))
        runs.append(run)
        if _holds(run):
            holds, confirmed = rate, [*earlier, run] if earlier else None
        else:
            misses = rate
            holds = _highest(runs, misses) if holds is None or holds >= misses else holds
        if holds and misses and misses / holds <= _CLOSE:
            if confirmed and confirmed[0].load.rate == holds:
                break
            rate = holds
        else:
            rate = (holds * misses) ** 0.5 if holds and misses else rate * _GROWTH if holds else rate / _GROWTH
    if not confirmed or confirmed[0].load.rate != holds or holds is None:
        return runs, None
    achieved = min(run.figures["requests_per_s"] or 0.0 for run in confirmed)
    return runs, Best(rate=holds, achieved_per_s=achieved, knee_per_s=knee(runs))


def _holds(run: Run) -> bool:
    offered, achieved = run.figures["offered_per_s"] or 0.0, run.figures["requests_per_s"] or 0.0
    return (run.figures["attainment"] or 0.0) >= ATTAINED and achieved >= KEPT_UP * offered


def _highest(runs: Sequence[Run], below: float) -> float | None:
    """The highest rate below one that misses which has held whenever it was measured."""
    missed = {run.load.rate for run in runs if not _holds(run)}
    rates = [run.load.rate for run in runs if run.load.rate and run.load.rate < below and run.load.rate not in missed]
    return max(rates, default=None)


def knee(runs: Sequence[Run]) -> float | None:
    """The offered rate with the most throughput for its latency (Kleinrock's power): beyond it a queue grows."""
    power = {
        run.load.rate: (run.figures["requests_per_s"] or 0.0) / latency
        for run in runs
        if run.load.rate and (latency := run.figures["e2e_p50_ms"])
    }
    return max(power, key=lambda rate: power[rate], default=None)

"""What serving reaches of the chips' peak rates, and what a step costs beside. The one place for these figures.

None was measured by this project, which had no TPU: they are fitted to published runs of other models, which
benchmarks/planner/published.py lists with their sources; `python -m benchmarks.planner.published` fits them again.
"""

from dataclasses import dataclass

WEIGHTS = 0.82
"""Share of the memory bandwidth while weights are read."""

KV_CACHE = 0.49
"""Share of it while the KV cache is read."""

PREFILL = 0.39
"""Share of the peak arithmetic for prompts."""

ICI_HOP_S = 1e-6
"""Shortest time of one hop between chips (jax-ml/scaling-book, sharding.md: "typically around 1us")."""

ACROSS_HOSTS_S = 11.5e-6
"""What each of the two rounds of an all-reduce takes longer over several hosts. From one run, the only one over several."""


@dataclass(frozen=True)
class Overhead:
    """Seconds beside what can be computed."""

    low: float
    fitted: float
    high: float


STEP = Overhead(0.0008, 0.0033, 0.0076)
"""A step's: scheduling, launches, sampling. Engines differ most in it: `low` and `high` are the fitted one with the largest
errors of points that were left out of the fit, one at a time."""

FIRST_TOKEN = Overhead(0.035, 0.055, 0.076)
"""A first token's, beside steps, prompts and the queue: what the two published times to the first token leave, and the mean."""

ERROR = 0.13
"""Mean error of those points. Differences below it say nothing."""

WHOLE_STEP = 0.43
"""Time to read the weights, as a share of a whole step with everything in it: 10.8 ms of 25.35 ms for Llama 3.3 70B, TP 8 on
v6e-8, 64 sequences (published.py)."""

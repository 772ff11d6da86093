"""Published runs on v6e, and the fit of apps/slice/efficiency.py to them: `python -m benchmarks.planner.published`.

Weights, KV cache, prompts, a step's fixed cost and collectives over several hosts are fitted apart, by least squares of
relative errors. Each point is then predicted from a fit to the others: the largest errors are the ends of a prediction.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from apps.common.command_line import reports_errors
from apps.slice.memory import Layout
from apps.slice.models import shape_named
from apps.slice.roofline import prompt_seconds
from apps.slice.topology import slice_of
from benchmarks.planner.footprint import by_formula
from benchmarks.planner.output import markdown
from benchmarks.planner.predict import Plan, Workload, is_across_hosts, link_seconds, read_seconds

_JUNE = "SGL-JAX, 2026-06"
_SEPTEMBER = "SGL-JAX, 2025-09 (its docs: Performance Benchmark Results)"
_RECIPES = "vLLM TPU 0.12, AI-Hypercomputer/tpu-recipes (inference/trillium/vLLM/Llama3.x)"


@dataclass(frozen=True)
class Run:
    """A published time between tokens."""

    model: str
    topology: str
    concurrency: int
    work: Workload
    ms: float
    source: str
    has_prompts: bool = True
    """False for a median time between tokens, which is a step without prompts."""
    ttft_ms: float | None = None
    """Published mean time to the first token."""

    @property
    def name(self) -> str:
        what = "mean" if self.has_prompts else "median"
        tokens = f"{self.work.prompt} + {self.work.output} tokens"
        return f"{self.model}, v6e {self.topology}, {self.concurrency} at once, {tokens}, {what}"


_CHAT, _LONG, _RECIPE = Workload(505, 524), Workload(1024, 1024), Workload(1000, 1000)
RUNS = (
    Run("llama-3.3-70b", "2x4", 64, _RECIPE, 23.11, _RECIPES, has_prompts=False),
    Run("llama-3.3-70b", "2x4", 128, _RECIPE, 30.73, _RECIPES, has_prompts=False),
    Run("llama-3.3-70b", "2x4", 64, _RECIPE, 25.35, _RECIPES),
    Run("llama-3.3-70b", "2x4", 128, _RECIPE, 35.12, _RECIPES),
    Run("qwen3-32b", "2x2", 16, _CHAT, 16.89, _JUNE),
    Run("gemma-2-27b", "2x2", 16, _CHAT, 14.47, _JUNE, ttft_ms=78),
    Run("llama-3.1-8b", "2x2", 16, _CHAT, 9.94, _JUNE),
    Run("llama-3.3-70b", "4x4", 16, _CHAT, 16.33, _JUNE, ttft_ms=114),
    Run("qwen3-8b", "2x2", 16, _LONG, 6.62, _SEPTEMBER),
    Run("qwen3-8b", "2x2", 64, _LONG, 11.11, _SEPTEMBER),
    Run("qwen3-32b", "2x2", 16, _LONG, 19.16, _SEPTEMBER),
    Run("qwen3-32b", "2x2", 64, _LONG, 29.48, _SEPTEMBER),
)
"""All chips are one tensor-parallel group, in bfloat16."""
_LEAST = np.array([1.0, 1.0, 1.0, 0.0, 0.0])  # no share is above 1, no time below 0


@dataclass(frozen=True)
class Fit:
    """The figures of efficiency.py."""

    weights: float
    kv_cache: float
    prefill: float
    step_s: float
    across_hosts_s: float

    def seconds(self, run: Run) -> float:
        """Predicted time between tokens of a run."""
        terms, links = _terms(run)
        costs = (1 / self.weights, 1 / self.kv_cache, 1 / self.prefill, self.step_s, self.across_hosts_s)
        return links + float(np.dot(terms, costs))


def fit(runs: Sequence[Run]) -> Fit:
    """The fit to some runs. What no run tells is 0."""
    terms, links = (np.array(column) for column in zip(*map(_terms, runs), strict=True))
    measured = np.array([run.ms / 1000 for run in runs])
    costs = _least_squares(terms / measured[:, None], 1 - links / measured)
    return Fit(*(1 / costs[:3]).tolist(), *costs[3:].tolist())


def left_out() -> list[tuple[Run, float]]:
    """Each run with its time by the fit to all others."""
    return [(run, fit([other for other in RUNS if other is not run]).seconds(run)) for run in RUNS]


def table() -> str:
    """Each run, the fit to all, and the fit without it, as Markdown."""
    whole = fit(RUNS)
    rows = [["run", "source", "published ms", "fit ms", "fit without it ms", "error"]]
    for run, seconds in left_out():
        times = [f"{run.ms:.2f}", f"{whole.seconds(run) * 1000:.2f}", f"{seconds * 1000:.2f}"]
        rows.append([run.name, run.source, *times, f"{seconds * 1000 / run.ms - 1:+.0%}"])
    return markdown(rows)


def _terms(run: Run) -> tuple[tuple[float, ...], float]:
    """What each figure is multiplied with in a step of this run, and the seconds of its links within a host."""
    plan, work = plan_of(run), run.work
    weights, cache = read_seconds(plan, run.concurrency, work.prompt + work.output // 2, run.concurrency)
    arithmetic = prompt_seconds(plan.layout, plan.on.generation, work.prompt) if run.has_prompts else 0.0
    rounds = plan.footprint.rounds if is_across_hosts(plan) else 0.0
    share = run.concurrency / work.output  # prompts for each output token
    return (weights, cache, share * arithmetic, 1.0, rounds), link_seconds(plan, run.concurrency)


def plan_of(run: Run) -> Plan:
    """The layout of a run on its slice."""
    on = slice_of("v6e", run.topology)
    layout = Layout(shape_named(run.model), on.chips)
    return Plan(layout, on, by_formula(layout, on.generation))


def _least_squares(matrix: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """The best values that are not below `_LEAST`: some are equal to it, and the others free; each such choice is tried."""
    fits = []
    for choice in product((True, False), repeat=len(_LEAST)):
        values, free = _LEAST.copy(), list(choice)
        values[free] += np.linalg.lstsq(matrix[:, free], wanted - matrix @ _LEAST)[0]
        if (values >= _LEAST).all():
            fits.append(values)
    return min(fits, key=lambda values: float(np.linalg.norm(matrix @ values - wanted)))


@reports_errors()
def main(_: Sequence[str]) -> int:
    """Print the fit and the table."""
    whole, errors = fit(RUNS), [(seconds - run.ms / 1000, seconds * 1000 / run.ms - 1) for run, seconds in left_out()]
    print(whole)
    print(f"step: {whole.step_s - max(e for e, _ in errors):.5f} to {whole.step_s - min(e for e, _ in errors):.5f} s")
    print(f"mean error of the points left out: {sum(abs(share) for _, share in errors) / len(errors):.1%}\n")
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

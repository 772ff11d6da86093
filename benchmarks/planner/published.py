"""Published runs on v6e, and the fit of apps/slice/efficiency.py to them: `python -m benchmarks.planner.published`.

Weights, KV cache, prompts, a step's fixed cost and collectives over several hosts are fitted apart, by least squares of
relative errors. Each point is then predicted from a fit to the others: the largest errors are the ends of a prediction.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

from apps.common.command_line import reports_errors
from apps.slice.memory import Layout
from apps.slice.models import shape_named
from apps.slice.roofline import prompt_seconds
from apps.slice.topology import slice_of
from benchmarks.planner.footprint import by_formula
from benchmarks.planner.output import markdown
from benchmarks.planner.predict import Plan, Point, Speed, Workload, at_load, is_across_hosts, link_seconds, read_seconds

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
_MAX_SWEEPS, _CLOSE = 5000, 1e-7  # of coordinate descent


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
        values = (1 / self.weights, 1 / self.kv_cache, 1 / self.prefill, self.step_s, self.across_hosts_s)
        return links + sum(term * value for term, value in zip(terms, values, strict=True))


def predicted(run: Run, speed: Speed) -> Point:
    """The prediction of a plan for a run."""
    return at_load(_plan(run), run.work, run.concurrency, speed)


def fit(runs: Sequence[Run]) -> Fit:
    """The fit to some runs. No share is above 1, no time below 0; what no run tells is 0."""
    rows = [(terms, links, run.ms / 1000) for run in runs for terms, links in [_terms(run)]]
    matrix = [[term / measured for term in terms] for terms, _, measured in rows]
    wanted = [1 - links / measured for _, links, measured in rows]
    values = _least_squares(matrix, wanted, (1.0, 1.0, 1.0, 0.0, 0.0))
    return Fit(1 / values[0], 1 / values[1], 1 / values[2], values[3], values[4])


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
    plan, work = _plan(run), run.work
    weights, cache = read_seconds(plan.layout, plan.on, run.concurrency, work.prompt + work.output // 2)
    arithmetic = prompt_seconds(plan.layout, plan.on.generation, work.prompt) if run.has_prompts else 0.0
    rounds = plan.footprint.rounds if is_across_hosts(plan) else 0.0
    share = run.concurrency / work.output  # prompts for each output token
    return (weights, cache, share * arithmetic, 1.0, rounds), link_seconds(plan, run.concurrency)


def _plan(run: Run) -> Plan:
    on = slice_of("v6e", run.topology)
    layout = Layout(shape_named(run.model), on.chips)
    return Plan(layout, on, by_formula(layout, on.generation))


def _least_squares(matrix: Sequence[Sequence[float]], wanted: Sequence[float], least: Sequence[float]) -> list[float]:
    """Coordinate descent; `least` are the lowest values."""
    values, columns = list(least), list(zip(*matrix, strict=True))
    left = [goal - sum(map(mul, row, values)) for row, goal in zip(matrix, wanted, strict=True)]
    for _ in range(_MAX_SWEEPS):
        before = list(values)
        for index, column in enumerate(columns):
            if norm := sum(map(mul, column, column)):
                new = max(least[index], values[index] + sum(map(mul, column, left)) / norm)
                left = [entry - (new - values[index]) * term for entry, term in zip(left, column, strict=True)]
                values[index] = new
        if all(abs(new - old) <= _CLOSE * abs(new) for new, old in zip(values, before, strict=True)):
            break
    return values


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

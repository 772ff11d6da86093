"""The figures of a run, computed from what it counted: the one place for their definitions."""

from benchmarks.serving.histogram import Histogram
from benchmarks.serving.result import Run

TIMES = ("ttft", "tpot", "itl", "e2e")


def figures(run: Run) -> dict[str, float | None]:
    """By name, unit last. Throughputs are of completed requests, over the whole time from the first intended sending to the
    last answer's end; goodput counts the requests within the SLO over the same time."""
    found: dict[str, float | None] = {}
    for name in TIMES:
        times: Histogram = getattr(run, name)
        found[f"{name}_mean_ms"] = times.mean
        found |= {f"{name}_p{percent}_ms": times.percentile(percent) for percent in (50, 90, 99)}
    found["requests_per_s"] = run.completed / run.elapsed_s
    found["output_tok_per_s"] = run.output_tokens / run.elapsed_s
    found["total_tok_per_s"] = (run.prompt_tokens + run.output_tokens) / run.elapsed_s
    cached = run.checks.cached_tokens
    found["computed_prompt_tok_per_s"] = (run.prompt_tokens - (cached or 0)) / run.elapsed_s
    found["cache_hit_rate"] = None if cached is None or not run.prompt_tokens else cached / run.prompt_tokens
    found["goodput_per_s"] = None if run.good is None else run.good / run.elapsed_s
    found["attainment"] = None if run.good is None or not run.sent else run.good / run.sent
    found["error_rate"] = sum(run.errors.values()) / run.sent if run.sent else None
    return {name: None if value is None else round(value, 4) for name, value in found.items()}


def mean_in_flight(run: Run) -> float:
    """Requests at once, by Little's law, of those that were completed."""
    return run.e2e.total / 1000 / run.elapsed_s

"""A run's counts and figures from its records: when it is measured, and again whenever its file is read."""

from collections import Counter
from collections.abc import Sequence

from benchmarks.serving.figures import Requests, figures, max_in_flight
from benchmarks.serving.records import Record
from benchmarks.serving.result import Run, Slo


def summarized(run: Run, records: Sequence[Record], slo: Slo) -> Run:
    """The run with everything that its records say; what else it has (load, client, metrics) is kept."""
    requests = Requests(records, run.load, run.load_s)
    by_usage = [record.cached_tokens for record in requests.ok if record.cached_tokens is not None]
    cached, by = (sum(by_usage), "usage") if by_usage else (run.cached_tokens, run.cached_by)
    failed = [record for record in records if record.error]
    return run.model_copy(
        update={
            "elapsed_s": round(requests.ended_s, 6),
            "sent": len(records),
            "completed": len(requests.ok),
            "cancelled": sum(record.cancelled for record in records),
            "errors": Counter(record.error for record in failed),
            "error_examples": {record.error: record.detail for record in reversed(failed)},
            "prompt_tokens": int(requests.prompt_tokens.sum()),
            "output_tokens": int(requests.output_tokens.sum()),
            "max_in_flight": max_in_flight(records),
            "cached_tokens": cached,
            "cached_by": by,
            "figures": {
                name: None if value is None else _rounded(value) for name, value in figures(requests, slo, cached).items()
            },
        }
    )


def _rounded(value: float) -> float:
    """Nine digits, so that a figure is the same on every machine."""
    return float(f"{value:.9g}")

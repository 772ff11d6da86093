"""Every figure of a run, computed from its records alone, when it is measured and again whenever its file is read.

docs/benchmarks.md defines them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.records import Record
from benchmarks.serving.result import PERCENTILES, STATISTICS, TIMES, Load, Run, Slo

Array = NDArray[np.float64]
_NAN = float("nan")


@dataclass(frozen=True)
class Times:
    """Values of one kind in ms, each with its weight and the request that it belongs to."""

    values: Array
    weights: Array
    owners: NDArray[np.int64]
    """Numbers among the completed requests."""

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """The least values that these shares of all weights are at or below (nearest rank)."""
        below = np.array(shares) * (1 - 1e-12)  # a sum of weights may be rounded up
        return list(np.quantile(self.values, below, weights=self.weights, method="inverted_cdf").tolist())

    def statistics(self) -> dict[str, float | None]:
        """Mean and percentiles by nearest rank; None where there are no values."""
        if not len(self.values):
            return dict.fromkeys(STATISTICS)
        ranked = dict(zip(PERCENTILES, self.quantiles([*PERCENTILES.values()]), strict=True))
        return {"mean": float(np.average(self.values, weights=self.weights)), **ranked}


class Requests:
    """The requests of one run as columns. Times are seconds from its start, NaN where there is none."""

    def __init__(self, records: Sequence[Record], load: Load, load_s: float) -> None:
        self.records, self.load, self.load_s = records, load, load_s
        self.ok = [record for record in records if record.is_ok]

    @cached_property
    def started(self) -> Array:
        """When each completed request was meant to be sent."""
        return np.array([record.intended for record in self.ok], float)

    @cached_property
    def finished(self) -> Array:
        """When the last token of each completed request came."""
        return self.started + np.array([sum(record.events) for record in self.ok], float) / 1e6

    @cached_property
    def ended_s(self) -> float:
        """When the last request was over, good or bad."""
        return max((_over(record) for record in self.records), default=0.0)

    @cached_property
    def output_tokens(self) -> Array:
        return np.array([record.output_tokens or 0 for record in self.ok], float)

    @cached_property
    def prompt_tokens(self) -> Array:
        return np.array([record.prompt_tokens or 0 for record in self.ok], float)

    def good(self, slo: Slo) -> Array:
        """1 for each completed request that is within all limits, else 0."""
        return np.array([is_good(record, slo) for record in self.ok], float)

    def times(self, name: str) -> Times:
        """Values of one of TIMES."""
        if name in ("itl", "gap"):
            return self._between(each_token=name == "itl")
        make = {"ttft": ttft_ms, "ttfc": ttfc_ms, "tpot": tpot_ms, "e2e": e2e_ms}[name]
        values = np.array([_NAN if (value := make(record)) is None else value for record in self.ok], float)
        owners = np.flatnonzero(~np.isnan(values))
        return Times(values[owners], np.ones(len(owners)), owners)

    def _between(self, *, each_token: bool) -> Times:
        """Between events; for each token, the time of its event shared evenly with those that came with it."""
        gaps = [[] if record.ends_only else record.events[1:] for record in self.ok]
        owners = np.repeat(np.arange(len(gaps)), [len(each) for each in gaps])
        values = np.array([gap for each in gaps for gap in each], float) / 1000
        if not each_token:
            return Times(values, np.ones(len(values)), owners)
        tokens = [
            record.tokens[1:] if each and record.tokens else [1.0] * len(each)
            for record, each in zip(self.ok, gaps, strict=True)
        ]
        counts = np.maximum(np.array([count for each in tokens for count in each], float), 1e-3)
        return Times(values / counts, counts, owners)

    @cached_property
    def window(self) -> tuple[float, float]:
        """The steady state: from when the first requests are through, at the latest the middle, to the end of the sending."""
        lives = self.finished - self.started
        through = 0.0 if not len(lives) else float(np.quantile(lives, 0.5 if self.load.clients else 0.9))
        return min(through, self.load_s / 2), self.load_s

    def shares(self, edges: Array) -> Array:
        """Share of each completed request's life between each two `edges`: so none is counted whole at an edge by chance."""
        started, finished = self.started[:, None], self.finished[:, None]
        overlaps = np.minimum(finished, edges[1:]) - np.maximum(started, edges[:-1])
        return np.clip(overlaps / np.maximum(finished - started, 1e-9), 0.0, 1.0)

    @cached_property
    def _inside(self) -> Array:
        return self.shares(np.array(self.window))[:, 0]

    def rate(self, amounts: Array) -> float:
        """Amounts of the completed requests per second of the window."""
        start, end = self.window
        return float((self._inside * amounts).sum()) / max(end - start, 1e-9)

    @property
    def in_flight(self) -> float:
        """Requests at once in the window, in the mean."""
        return self.rate(self.finished - self.started)


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
                # nine digits, so that a figure is the same on every machine
                name: None if value is None else float(f"{value:.9g}")
                for name, value in figures(requests, slo, cached).items()
            },
        }
    )


def figures(requests: Requests, slo: Slo, cached_tokens: int | None) -> dict[str, float | None]:
    """All figures by name, unit last. None means not measured."""
    values: dict[str, float | None] = {}
    for name in TIMES:
        values |= {f"{name}_{statistic}_ms": value for statistic, value in requests.times(name).statistics().items()}
    records, load_s, ones = requests.records, requests.load_s, np.ones(len(requests.ok))
    prompt, output = requests.prompt_tokens, requests.output_tokens
    good = requests.good(slo)
    first_turns = sum(not record.turn for record in records)
    begun = sum(record.begun is not None and record.begun <= load_s for record in records)
    events = sum(len(record.events) for record in requests.ok if record.output_tokens and not record.ends_only)
    cached = 0.0 if cached_tokens is None or not prompt.sum() else cached_tokens / float(prompt.sum())
    values["offered_per_s"] = None if requests.load.clients else first_turns / load_s
    values["sent_per_s"] = begun / load_s
    values["requests_per_s"] = requests.rate(ones)
    values["output_tok_per_s"] = requests.rate(output)
    values["total_tok_per_s"] = requests.rate(prompt + output)
    values["computed_prompt_tok_per_s"] = requests.rate(prompt) * (1 - cached)
    values["cache_hit_rate"] = None if cached_tokens is None else cached
    values["goodput_per_s"] = requests.rate(good) if slo.is_set else None
    values["attainment"] = float(good.sum()) / len(records) if slo.is_set and records else None
    values["error_rate"] = sum(record.error is not None for record in records) / len(records) if records else None
    values["tokens_per_event"] = (
        sum(record.output_tokens or 0 for record in requests.ok if not record.ends_only) / events if events else None
    )
    values["in_flight"] = requests.in_flight
    values["drain_s"] = max(0.0, requests.ended_s - load_s)
    return values


def ttft_ms(record: Record) -> float | None:
    """Intended time to the first token of any kind."""
    return record.events[0] / 1000 if record.events else None


def ttfc_ms(record: Record) -> float | None:
    """Intended time to the first event of the answer itself that is not blank."""
    return None if record.content_at is None else sum(record.events[: record.content_at + 1]) / 1000


def tpot_ms(record: Record) -> float | None:
    """Time from the first event to the last for each token that came after the first event; None from one event."""
    if record.output_tokens is None or len(record.events) < 2:
        return None
    later = record.output_tokens - (record.tokens[0] if record.tokens else 1.0)
    return sum(record.events[1:]) / 1000 / later if later > 0 else None


def e2e_ms(record: Record) -> float | None:
    """Intended time to the last token."""
    return sum(record.events) / 1000 if record.events else None


def is_good(record: Record, slo: Slo) -> bool:
    """Whether a completed request is within all limits."""
    limits = ((ttft_ms, slo.ttft_ms), (tpot_ms, slo.tpot_ms), (e2e_ms, slo.e2e_ms))
    return all(limit is None or (make(record) or 0.0) <= limit for make, limit in limits)


def max_in_flight(records: Sequence[Record]) -> int:
    """Highest number of requests at once, from when each was begun to when it was over."""
    begun = [record for record in records if record.begun is not None]
    changes = sorted([(record.begun or 0.0, 1) for record in begun] + [(_over(record), -1) for record in begun])
    return int(np.cumsum([change for _, change in changes]).max()) if changes else 0


def _over(record: Record) -> float:
    return max(record.ended, record.intended + sum(record.events) / 1e6)

"""The order of the candidates by an objective, and why the first one is recommended, in words from the plan's own figures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from apps.slice.efficiency import ERROR
from benchmarks.planner.candidates import Status
from benchmarks.planner.plan import CONTEXTS, PlanRequest, Range, Row

OBJECTIVES = {
    "latency": "the time of one request alone",
    "throughput": "the requests per second within the SLO",
    "cost": "the price of the output within the SLO, and of near ties the fewest chips in a slice",
    "balanced": "latency and throughput alike",
}
_STATUS = tuple(Status)


@dataclass(frozen=True)
class Ranking:
    """`exact` leave the model's numbers as they were published; what changes them has to be measured for quality first.

    Both have only what does what was asked, the best first.
    """

    exact: tuple[Row, ...]
    changed: tuple[Row, ...]
    ties: int
    """How many of `exact`, from the first on, are too close to call; 1 where the first is alone."""
    why: str
    risk: str

    @property
    def choice(self) -> Row | None:
        return next(iter(self.exact), None)


def rank(rows: Sequence[Row], request: PlanRequest) -> Ranking:
    """Rank what holds a request of `max_context` tokens, meets the SLO at the slow end and is not known to fail.

    Order is by the objective at the slow end. What is as good as the best within the prediction's own error is a near tie with
    it; among these upstream's status decides, then the score.
    """
    able = [row for row in rows if why_not(row, request) is None]
    exact, ties = _ordered([row for row in able if row.candidate.is_exact], request)
    changed, _ = _ordered([row for row in able if not row.candidate.is_exact], request)
    if not exact:
        return Ranking((), changed, 0, _why_none(rows, request), "")
    return Ranking(exact, changed, ties, _why(exact, ties, request), _risk(exact[0]))


def why_not(row: Row, request: PlanRequest) -> str | None:
    """Why a row is not ranked, for a sentence about several; None where it does what was asked."""
    if row.candidate.status is Status.BROKEN:
        return "fail upstream as read"
    if not row.fits:
        return "do not fit"
    if row.longest_request_tokens < request.max_context:
        return f"hold no request of {request.max_context:,} tokens"
    return "miss the SLO at the slow end" if row.within_slo.slow is None else None


def score(row: Row, objective: str, output: int) -> float:
    """What the objective counts at the slow end; less is better."""
    single, load = row.single_stream.slow, row.within_slo.slow
    assert single
    assert load
    seconds, per_request = single.ttft_s + (output - 1) * single.tpot_s, 1 / load.requests_per_s
    match objective:
        case "latency":
            return seconds
        case "throughput" | "cost":
            return per_request
        case _:
            return math.sqrt(seconds * per_request)


def _ordered(rows: list[Row], request: PlanRequest) -> tuple[tuple[Row, ...], int]:
    """The rows by merit, and how many of them are near ties with the best score."""
    scores = {row.name: score(row, request.objective, request.work.output) for row in rows}
    close = min(scores.values(), default=0.0) * (1 + ERROR)

    def merit(row: Row) -> tuple[float, ...]:
        own = scores[row.name]
        if own > close:
            return (1, own)
        chips = row.on.chips if request.objective == "cost" else 0
        return (0, chips, _STATUS.index(row.candidate.status), own)

    return tuple(sorted(rows, key=merit)), sum(own <= close for own in scores.values())


def _why(exact: Sequence[Row], ties: int, request: PlanRequest) -> str:
    first, load = exact[0], f"requests of {request.work.prompt:,} + {request.work.output:,} tokens"
    sentences = [
        f"By {request.objective} ({OBJECTIVES[request.objective]}). It is predicted to serve {_rates(first.within_slo)} {load} "
        f"per second within the SLO, one alone in {_milliseconds(first.single_stream)} ms a token; it holds {_held(first)}, "
        f"and the longest request may have {first.longest_request_tokens:,} tokens."
    ]
    if ties > 1:
        others = ", ".join(f"{row.name} ({row.candidate.status.value})" for row in exact[1:ties])
        sentences.append(
            f"A near tie with {others}: they differ by less than the prediction's own error ({ERROR:.0%}), so upstream's "
            "status decides."
        )
    elif len(exact) > 1:
        after = exact[1]
        sentences.append(
            f"{after.name} is next: {_rates(after.within_slo)} per second, {_milliseconds(after.single_stream)} ms."
        )
    return " ".join(sentences)


def _risk(choice: Row) -> str:
    if choice.candidate.status is Status.PASSING:
        return "Upstream tests this mode; the predictions are not measurements."
    notes = "; ".join(note.text for note in choice.candidate.notes)
    return f"Upstream: {notes}. Run the serving benchmark on the slice before you rely on it."


def _why_none(rows: Sequence[Row], request: PlanRequest) -> str:
    usable = [row for row in rows if row.candidate.is_exact and row.candidate.status is not Status.BROKEN]
    if not any(row.fits for row in usable):
        return f"The weights fit no chip of {request.on.generation.name} {request.on.topology} in any layout: take more chips."
    longest = max(row.longest_request_tokens for row in usable)
    if longest < request.max_context:
        return f"No layout holds a request of {request.max_context:,} tokens: at most {longest:,} (--max-context)."
    ends = [
        row.single_stream.slow for row in usable if row.single_stream.slow and row.longest_request_tokens >= request.max_context
    ]
    return (
        "No layout meets the SLO at the slow end of its prediction: one request alone takes at least "
        f"{min(end.ttft_s for end in ends) * 1000:.0f} ms to the first token and "
        f"{min(end.tpot_s for end in ends) * 1000:.1f} ms for each one after it."
    )


def _rates(range_: Range) -> str:
    low, high = (f"{end.requests_per_s:.1f}" if end else "none" for end in (range_.slow, range_.fast))
    return f"{low} to {high}"


def _milliseconds(range_: Range) -> str:
    return " to ".join(f"{end.tpot_s * 1000:.1f}" for end in (range_.fast, range_.slow) if end)


def _held(row: Row) -> str:
    return f"{row.sequences.get(CONTEXTS[0], 0)} sequences of {CONTEXTS[0]:,} tokens"

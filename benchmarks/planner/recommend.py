"""The recommendation: which candidate to take, and why, in words made from the plan's own figures."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from apps.slice.memory import KvLayout
from apps.slice.topology import Slice, slice_of
from benchmarks.planner.candidates import Status
from benchmarks.planner.plan import CONTEXTS, PlanRequest, Range, Row, plan

_ORDER = tuple(Status)


@dataclass(frozen=True)
class Advice:
    """The choice, the one after it, and the reasons. No choice where nothing does what was asked."""

    choice: Row | None
    runner_up: Row | None
    why: str
    risk: str
    instead: tuple[str, ...]
    """What may be better, at a price that only the user can weigh."""


def recommend(rows: Sequence[Row], request: PlanRequest) -> Advice:
    """The candidate with the best status upstream, and among those the most requests per second within the SLO (slow end).

    Only what leaves the model's numbers as they are and holds a request of `max_context` tokens is chosen: what changes
    answers has to be measured for quality first, and is mentioned as such.
    """
    able = _by_merit(row for row in rows if _is_able(row, request) and row.candidate.is_exact)
    if not able:
        return Advice(None, None, _why_none(rows, request), "", ())
    choice, runner_up = able[0], next(iter(able[1:]), None)
    instead = (*_fp8_cache(rows, choice, request), *_single_hosts(request))
    return Advice(choice, runner_up, _why(choice, runner_up, request), _risk(choice, rows), instead)


def _is_able(row: Row, request: PlanRequest) -> bool:
    is_long_enough = row.longest_request_tokens >= request.max_context
    return is_long_enough and row.within_slo.slow is not None and row.candidate.status is not Status.BROKEN


def _by_merit(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (_ORDER.index(row.candidate.status), -_rate(row)))


def _rate(row: Row) -> float:
    return row.within_slo.slow.requests_per_s if row.within_slo.slow else 0.0


def _why(choice: Row, runner_up: Row | None, request: PlanRequest) -> str:
    load = f"requests of {request.work.prompt:,} + {request.work.output:,} tokens"
    first = f"{choice.candidate.name} is predicted to serve {_rates(choice.within_slo)} {load} per second within the SLO"
    second = f"It holds {_held(choice)}; the longest request may have {choice.longest_request_tokens:,} tokens"
    if runner_up is None:
        return f"{first}. {second}. No other does what was asked."
    third = f"{runner_up.candidate.name} is next with {_rates(runner_up.within_slo)} per second and {_held(runner_up)}"
    return f"{first}. {second}. {third}."


def _risk(choice: Row, rows: Sequence[Row]) -> str:
    if choice.candidate.status is Status.PASSING:
        return "Upstream tests this mode on one host; the predictions are not measurements."
    notes = "; ".join(note.text for note in choice.candidate.notes)
    has_pipeline = any(row.candidate.layout.pipeline_parallel > 1 for row in rows)
    pipeline = " PP, which upstream calls passing on several hosts, fails with Gemma 4 as read." if has_pipeline else ""
    return f"Upstream: {notes}. Run the serving benchmark on the slice before you rely on it.{pipeline}"


def _fp8_cache(rows: Sequence[Row], choice: Row, request: PlanRequest) -> Iterator[str]:
    """The best that only stores the cache in one byte, if it gives more of anything."""
    changed = [row for row in rows if _is_able(row, request) and row.candidate.layout.dtype == "bfloat16"]
    best = next(iter(_by_merit(row for row in changed if not row.candidate.is_exact)), None)
    if best and (_rate(best) > _rate(choice) or _sequences(best) > _sequences(choice)):
        yield (
            f"{best.candidate.name}, if its answers pass your accuracy run: {_rates(best.within_slo)} requests per second, "
            f"{_held(best)}."
        )


def _single_hosts(request: PlanRequest) -> Iterator[str]:
    """The same chips as slices of one host each, which upstream tests: worth a thought before renting."""
    topology = request.on.generation.single_host[-1]
    host = slice_of(request.on.generation.name, topology)
    count = request.on.chips // host.chips
    if request.on.hosts == 1 or count * host.chips != request.on.chips:
        return
    best = _best_on(host, request)
    if best and best.within_slo.slow and best.within_slo.fast:
        ends = [count * end.requests_per_s for end in (best.within_slo.slow, best.within_slo.fast)]
        yield (
            f"{count} slices of {topology} instead of one {request.on.topology}, one replica on each: the same chips, every "
            f"group on one host, where upstream tests it; {best.candidate.name}, {ends[0]:.1f} to {ends[1]:.1f} requests per "
            f"second in all, the longest request {best.longest_request_tokens:,} tokens "
            f"(`scripts/plan.py --topology {topology}`)."
        )


def _best_on(host: Slice, request: PlanRequest) -> Row | None:
    smaller = replace(request, on=host)
    return next(iter(_by_merit(row for row in plan(smaller) if _is_able(row, smaller) and row.candidate.is_exact)), None)


def _why_none(rows: Sequence[Row], request: PlanRequest) -> str:
    if not any(row.fits for row in rows):
        return f"The weights fit no chip of {request.on.generation.name} {request.on.topology} in any layout: take more chips."
    usable = [row for row in rows if row.candidate.is_exact and row.candidate.status is not Status.BROKEN]
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


def _held(row: Row) -> str:
    return f"{_sequences(row)} sequences of {CONTEXTS[0]:,} tokens"


def _sequences(row: Row) -> int:
    return row.sequences[CONTEXTS[0]][KvLayout.VLLM_TPU]

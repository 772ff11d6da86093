"""The plan of a model on chips, as one slice or several: memory, capacity, predictions and cost of each candidate."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from apps.slice.models import ModelShape
from apps.slice.topology import Slice, slice_of
from benchmarks.planner.candidates import Candidate, candidates
from benchmarks.planner.footprint import UTILIZATION, Footprint, Key, Programs, by_formula
from benchmarks.planner.predict import FAST, SLOW, Plan, Point, Speed, Workload, at_load, single_stream

CONTEXTS = (8192, 32_768, 131_072)
MAX_SEQUENCES = 256
"""Sequences of a data-parallel group at once: vLLM's own default for `max_num_seqs`."""


@dataclass(frozen=True)
class Slo:
    """The longest mean time to the first token, and per output token, that are good enough."""

    ttft_s: float
    tpot_s: float


@dataclass(frozen=True)
class PlanRequest:
    """A model, chips and a load to plan for."""

    model: str
    shape: ModelShape
    on: Slice
    slo: Slo
    work: Workload
    max_context: int
    """Tokens of the longest request that must fit."""
    usd_per_chip_hour: float | None = None
    objective: str = "balanced"
    speeds: tuple[Speed, Speed] = (SLOW, FAST)
    known: Mapping[Key, Programs] = field(default_factory=dict)
    """What the engine's compiled programs say of some layouts."""


@dataclass(frozen=True)
class Range:
    """A prediction's slow and fast end; None where the SLO cannot be met."""

    slow: Point | None
    fast: Point | None


@dataclass(frozen=True)
class Row:
    """One candidate on one or more slices, a replica on each. Bytes are those of a chip of the stage that has the most."""

    candidate: Candidate
    on: Slice
    """Each slice."""
    replicas: int
    footprint: Footprint
    kv_budget_bytes: float
    """What the engine allocates for the KV cache; negative where the weights do not fit."""
    longest_request_tokens: int
    """What the cache of one group holds, or the model takes."""
    sequences: dict[int, int]
    """How many of each context fit at once, on all slices."""
    single_stream: Range
    """One request on an idle slice."""
    within_slo: Range
    """The highest load of all slices that meets the SLO."""

    @property
    def name(self) -> str:
        return f"{self.replicas} x {self.on.topology} {self.candidate.name}"

    @property
    def fits(self) -> bool:
        return self.longest_request_tokens > 0


def plan(request: PlanRequest) -> list[Row]:
    """A row for each candidate on the slice, and on the slices of one host that its chips could be instead."""
    return [
        _row(candidate, on, count, request)
        for on, count in deployments(request.on)
        for candidate in candidates(request.shape, on.by_device())
    ]


def deployments(on: Slice) -> Iterator[tuple[Slice, int]]:
    """The slice itself, and how many slices of one host have the same chips."""
    yield on, 1
    for topology in reversed(on.generation.single_host):
        host = slice_of(on.generation.name, topology)
        if host.chips < on.chips and on.chips % host.chips == 0:
            yield host, on.chips // host.chips


def _row(candidate: Candidate, on: Slice, replicas: int, request: PlanRequest) -> Row:
    layout, devices = candidate.layout, on.by_device()
    known = request.known.get((on.generation.name, on.topology, candidate.name))
    footprint = known.footprint(layout, devices.generation) if known else by_formula(layout, devices.generation)
    longest = min(footprint.kv_tokens, request.shape.max_context)
    allowed = UTILIZATION * devices.generation.usable_bytes
    contexts = [context for context in CONTEXTS if longest and context <= request.shape.max_context]
    sized = Plan(layout, devices, footprint)
    loads = (_highest(sized, request, speed) if longest else None for speed in request.speeds)
    return Row(
        candidate,
        on,
        replicas,
        footprint,
        allowed - footprint.weight_bytes,
        longest,
        {context: replicas * layout.data_parallel * (footprint.kv_tokens // context) for context in contexts},
        Range(*(single_stream(sized, request.work, speed) for speed in request.speeds)),
        Range(*(load and load.times(replicas) for load in loads)),
    )


def _highest(sized: Plan, request: PlanRequest, speed: Speed) -> Point | None:
    """The most sequences per lane that memory, vLLM and both limits of the SLO allow; each makes both times longer."""
    work, stages = request.work, sized.layout.pipeline_parallel
    room = sized.footprint.kv_tokens // (work.prompt + work.output) // stages
    load = partial(at_load, sized, work, speed=speed)

    def misses(each: int) -> bool:
        point = load(each)
        return point.tpot_s > request.slo.tpot_s or point.ttft_s > request.slo.ttft_s

    each = bisect_left(range(1, min(room, MAX_SEQUENCES // stages) + 1), True, key=misses)  # how many do not miss it
    return load(each) if each else None


def usd_per_million_output_tokens(point: Point | None, request: PlanRequest) -> float | None:
    """Cost of output at a load of all chips; None without a price or a load."""
    if point is None or request.usd_per_chip_hour is None:
        return None
    return request.usd_per_chip_hour * request.on.chips / 3600 / point.output_tok_per_s * 1e6

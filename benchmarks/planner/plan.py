"""The plan of a model on a slice: memory, capacity, predictions and cost of each candidate."""

from bisect import bisect_left
from dataclasses import dataclass, replace

from apps.slice.memory import (
    KvLayout,
    Layout,
    kv_budget_per_chip,
    kv_tokens,
    max_sequences,
    program_bytes_per_chip,
    usable_bytes,
    weight_bytes_per_chip,
)
from apps.slice.models import ModelShape
from apps.slice.topology import Slice
from benchmarks.planner.candidates import Candidate, candidates
from benchmarks.planner.predict import FAST, SLOW, STEP_TOKENS, Point, Speed, Workload, at_load, single_stream

CONTEXTS = (8192, 32_768, 131_072)
UTILIZATION = 0.9
"""`gpu_memory_utilization` of serve_configs/gemma.yaml."""
MAX_SEQUENCES = 256
"""Sequences of a data-parallel group at once: vLLM's own default for `max_num_seqs`."""


@dataclass(frozen=True)
class Slo:
    """The longest mean time to the first token, and per output token, that are good enough."""

    ttft_s: float
    tpot_s: float


@dataclass(frozen=True)
class PlanRequest:
    """A model, a slice and a load to plan for."""

    model: str
    shape: ModelShape
    on: Slice
    slo: Slo
    work: Workload
    max_context: int
    """Tokens of the longest request that must fit."""
    usd_per_chip_hour: float | None = None


@dataclass(frozen=True)
class Range:
    """A prediction's slow and fast end; None where the SLO cannot be met."""

    slow: Point | None
    fast: Point | None


@dataclass(frozen=True)
class Row:
    """One candidate. Bytes are those of a chip of the stage that has the most."""

    candidate: Candidate
    weight_bytes: float
    kv_budget_bytes: float
    """What the engine allocates for the KV cache at `UTILIZATION`; negative where the weights do not fit."""
    program_bytes: float
    """Temporaries of a step with a whole chunk of prompts, in what the engine leaves free."""
    longest_request_tokens: int
    """What the cache of one group holds, or the model takes."""
    sequences: dict[int, dict[KvLayout, int]]
    """How many of each context fit on the slice at once, as vLLM TPU allocates (and as the model would allow)."""
    single_stream: Range
    """One request on an idle slice."""
    within_slo: Range
    """The highest load that meets the SLO."""

    @property
    def fits(self) -> bool:
        return self.longest_request_tokens > 0


def plan(request: PlanRequest) -> list[Row]:
    """A row for each candidate.

    Raises:
        UserError: layouts are not modelled for this generation.
    """
    return [_row(candidate, request) for candidate in candidates(request.shape, request.on)]


def _row(candidate: Candidate, request: PlanRequest) -> Row:
    layout, generation = candidate.layout, request.on.generation
    program = program_bytes_per_chip(layout, STEP_TOKENS)
    has_room = program <= (1 - UTILIZATION) * usable_bytes(generation)
    longest = min(kv_tokens(layout, generation, UTILIZATION), request.shape.max_context) if has_room else 0
    sequences = {
        context: {
            kv_layout: _max_sequences(layout, kv_layout, request.on, context)
            if has_room and context <= request.shape.max_context
            else 0
            for kv_layout in KvLayout
        }
        for context in CONTEXTS
    }
    return Row(
        candidate,
        weight_bytes_per_chip(layout),
        kv_budget_per_chip(layout, generation, UTILIZATION),
        program,
        longest,
        sequences,
        Range(*(single_stream(layout, request.on, request.work, speed) for speed in (SLOW, FAST))),
        Range(*(_highest(layout, request, speed) if longest else None for speed in (SLOW, FAST))),
    )


def _max_sequences(layout: Layout, kv_layout: KvLayout, on: Slice, context: int) -> int:
    return max_sequences(replace(layout, kv_layout=kv_layout), on.generation, UTILIZATION, context)


def _highest(layout: Layout, request: PlanRequest, speed: Speed) -> Point | None:
    """The most sequences per lane that memory, vLLM and both limits of the SLO allow; each makes both times longer."""
    lanes = layout.data_parallel * layout.pipeline_parallel
    work, on = request.work, request.on
    room = max_sequences(layout, on.generation, UTILIZATION, work.prompt + work.output) // lanes

    def misses(each: int) -> bool:
        point = at_load(layout, on, work, each, speed)
        return point.tpot_s > request.slo.tpot_s or point.ttft_s > request.slo.ttft_s

    sequences = range(1, min(room, MAX_SEQUENCES // layout.pipeline_parallel) + 1)
    each = bisect_left(sequences, True, key=misses)  # how many do not miss it
    return at_load(layout, on, work, each, speed) if each else None


def usd_per_million_output_tokens(point: Point | None, request: PlanRequest) -> float | None:
    """Cost of output at a load; None without a price or a load."""
    if point is None or request.usd_per_chip_hour is None:
        return None
    return request.usd_per_chip_hour * request.on.chips / 3600 / point.output_tok_per_s * 1e6

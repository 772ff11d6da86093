"""Predicted times and rates of a layout under a load: what its chips read, compute and send, at the shares of their peak rates
that published runs have reached.

Predictions, not measurements. Each has a slow and a fast end: see `Speed` for what differs. Prompts and decoding share a
group's steps (chunked prefill); the requests all have the same lengths; waiting is that of a queue with random arrivals.
"""

import math
from dataclasses import dataclass, replace

from apps.slice.efficiency import ACROSS_HOSTS_S, FIRST_TOKEN, ICI_HOP_S, KV_CACHE, PREFILL, STEP, WEIGHTS
from apps.slice.memory import Layout, kv_read_bytes_per_chip, read_weight_bytes_per_chip
from apps.slice.roofline import Chunk, flops, peak_ops, prompt_seconds
from apps.slice.topology import Slice
from benchmarks.planner.footprint import STEP_TOKENS, Footprint


@dataclass(frozen=True)
class Workload:
    """Lengths of every request in tokens."""

    prompt: int
    output: int
    cached: float = 0.0
    """Share of the prompt's tokens that the prefix cache has."""
    accepted: tuple[float, ...] = ()
    """Speculative decoding: how often the draft's first, second, ... token is accepted, given those before it."""

    @property
    def computed(self) -> int:
        """Tokens of a prompt that are computed: the last one always is."""
        return max(1, round(self.prompt * (1 - self.cached)))

    @property
    def tokens_per_step(self) -> float:
        """Tokens that a sequence gains in a step."""
        return 1 + sum(math.prod(self.accepted[:count]) for count in range(1, len(self.accepted) + 1))


@dataclass(frozen=True)
class Speed:
    """One end of the range of possible speeds."""

    step_s: float
    """What a step costs beside reads, arithmetic and links."""
    first_token_s: float
    """What a first token costs beside steps, prompts and the queue."""
    is_lucky: bool
    """Whether what no published run tells goes well: weights of 8 or 4 bits are faster than bfloat16 ones, and data-parallel
    groups, which wait for each other in every step, work on their prompts in the same steps."""
    factor: float = 1.0
    """What a user's own run has measured, by what was predicted for it (calibrate.py)."""


SLOW = Speed(STEP.high, FIRST_TOKEN.high, is_lucky=False)
FITTED = Speed(STEP.fitted, FIRST_TOKEN.fitted, is_lucky=True)
FAST = Speed(STEP.low, FIRST_TOKEN.low, is_lucky=True)


@dataclass(frozen=True)
class Plan:
    """A layout on the devices of a slice, and what it takes of them."""

    layout: Layout
    on: Slice
    footprint: Footprint


@dataclass(frozen=True)
class Point:
    """A steady load."""

    sequences: int
    """Running at once on the slice."""
    tpot_s: float
    ttft_s: float
    """Mean; infinite where prompts come faster than they are done."""
    requests_per_s: float
    output_tok_per_s: float

    def times(self, count: int) -> "Point":
        """This load on each of so many slices."""
        rates = (count * self.requests_per_s, count * self.output_tok_per_s)
        return Point(count * self.sequences, self.tpot_s, self.ttft_s, *rates)


def single_stream(plan: Plan, work: Workload, speed: Speed) -> Point:
    """One request on an idle slice."""
    step, _, first = _times(plan, work, 1, speed)
    tpot, first = step / work.tokens_per_step, first + speed.first_token_s
    return Point(1, tpot, first, 1 / (first + (work.output - 1) * tpot), 1 / tpot)


def at_load(plan: Plan, work: Workload, each: int, speed: Speed) -> Point:
    """The load at which every lane has `each` sequences. A lane is a data-parallel group, or a batch on its way through a
    pipeline, which has one in each stage.

    In a steady state each output token of a sequence comes with its share of the prompts that follow. The prompts of a lane
    wait for each other like customers of one server (M/D/1), and the first for the step that is running.
    """
    lanes = plan.layout.data_parallel * plan.layout.pipeline_parallel
    step, prompt, service = _times(plan, work, each, speed)
    stalled_by = 1 if speed.is_lucky else plan.layout.data_parallel
    tpot = step / work.tokens_per_step + each / work.output * stalled_by * prompt
    rate = lanes * each / (work.output * tpot)
    busy = rate * stalled_by / lanes * service
    wait = busy * service / (2 * (1 - busy)) if busy < 1 else math.inf
    first = tpot / 2 + wait + service + speed.first_token_s
    return Point(lanes * each, tpot, first, rate, lanes * each / tpot)


def _times(plan: Plan, work: Workload, each: int, speed: Speed) -> tuple[float, float, float]:
    """Seconds of a decoding step with `each` sequences on a lane, of what a prompt adds to such steps, and of it with them."""
    if not speed.is_lucky:
        plan = replace(plan, layout=replace(plan.layout, dtype="bfloat16"))
    step = speed.factor * _step_seconds(plan, work, each, speed.step_s)
    prompt = speed.factor * work.computed * _prompt_token_seconds(plan, work)
    return step, prompt, math.ceil(work.computed / STEP_TOKENS) * step + prompt


def _step_seconds(plan: Plan, work: Workload, sequences: int, overhead_s: float) -> float:
    """Seconds of a decoding step of one lane, through all stages of a pipeline in turn."""
    context, tokens = work.prompt + work.output // 2, sequences * (1 + len(work.accepted))
    weights, cache = read_seconds(plan, sequences, context, tokens)
    computed = tokens * flops(plan.layout.shape, Chunk(1, context)) / plan.layout.tensor_parallel
    busy = max(weights / WEIGHTS + cache / KV_CACHE, computed / peak_ops(plan.layout, plan.on.generation) / PREFILL)
    rounds = plan.footprint.rounds * ACROSS_HOSTS_S if is_across_hosts(plan) else 0
    return busy + link_seconds(plan, tokens) + rounds + overhead_s * plan.layout.pipeline_parallel


def read_seconds(plan: Plan, sequences: int, context: int, tokens: int) -> tuple[float, float]:
    """Seconds that a decoding step of so many tokens reads weights and KV cache at the full bandwidth."""
    weights = read_weight_bytes_per_chip(plan.layout, tokens)
    cache = sequences * kv_read_bytes_per_chip(plan.layout, context + 1)
    return weights / plan.on.generation.hbm_bytes_per_s, cache / plan.on.generation.hbm_bytes_per_s


def _prompt_token_seconds(plan: Plan, work: Workload) -> float:
    """Seconds that each token of a prompt adds to the steps of its lane: arithmetic or links, whichever takes longer."""
    arithmetic = prompt_seconds(plan.layout, plan.on.generation, work.prompt) / work.prompt / PREFILL
    chunk = min(work.computed, STEP_TOKENS)
    return max(arithmetic, link_seconds(plan, chunk) / chunk)


def is_across_hosts(plan: Plan) -> bool:
    """Whether the chips of one tensor-parallel group are on several hosts."""
    return plan.layout.tensor_parallel > plan.on.chips_per_host


def link_seconds(plan: Plan, tokens: int) -> float:
    """Seconds of a step's collectives over a group's chips (jax-ml/scaling-book, sharding.md).

    A rectangle of chips as square as possible, without wrap-around links (v5e and v6e have them from 16 chips in a row on).
    """
    sides = group_sides(plan.on, plan.layout.tensor_parallel)
    used = sum(side > 1 for side in sides)
    if not used:
        return 0.0
    link = plan.on.generation.ici_bytes_per_s / 2 / (2 * len(sides))  # one way: the figure counts both ways of all links
    hops = sum(side - 1 for side in sides)
    return max(plan.footprint.rounds * hops * ICI_HOP_S, tokens * plan.footprint.moved_bytes_per_token / (link * used))


def group_sides(on: Slice, devices: int) -> tuple[int, ...]:
    """Sides of a tensor-parallel group within the topology: 8 chips of a 4x4 are 2x4."""
    limits = [int(side) for side in on.topology.split("x")]
    sides, chips = [1] * len(limits), devices * math.prod(limits) // on.chips  # a chip may have several devices
    while math.prod(sides) < chips:
        shortest = min((n for n, side in enumerate(sides) if side < limits[n]), key=lambda n: sides[n])
        sides[shortest] *= 2
    return tuple(sides)

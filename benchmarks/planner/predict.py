"""Predicted times and rates of a layout under a load: the roofline, divided by the shares of it that were published.

Predictions, not measurements. Each has a slow and a fast end: see `Speed` for what differs. Prompts and decoding share a
group's steps (chunked prefill); the requests all have the same lengths; waiting is that of a queue with random arrivals.
"""

import dataclasses
import math
from dataclasses import dataclass

from apps.slice.efficiency import DECODE, ICI_HOP_S, PREFILL
from apps.slice.memory import Layout
from apps.slice.roofline import decode_seconds, prompt_seconds
from apps.slice.topology import Slice

STEP_TOKENS = 4096
"""Prompt tokens that a group takes on in one step: `max_num_batched_tokens` of serve_configs/gemma.yaml."""
_BF16_BYTES = 2


@dataclass(frozen=True)
class Workload:
    """Lengths of every request in tokens."""

    prompt: int
    output: int


@dataclass(frozen=True)
class Speed:
    """One end of the range of possible speeds."""

    decode: float
    """Share of the roofline of a decoding step."""
    prefill: float
    """Share of the peak arithmetic for prompts."""
    int8_helps: bool
    """Whether int8 weights are faster than bfloat16 ones at all: no run on v6e was published."""
    prompts_meet: bool
    """Whether data-parallel groups, which wait for each other in every step, work on their prompts in the same steps."""


SLOW = Speed(DECODE.low, PREFILL.low, int8_helps=False, prompts_meet=False)
FAST = Speed(DECODE.high, PREFILL.high, int8_helps=True, prompts_meet=True)


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


def single_stream(layout: Layout, on: Slice, work: Workload, speed: Speed) -> Point:
    """One request on an idle slice."""
    step, first = _step_and_prompt(layout, on, work, 1, speed)
    return Point(1, step, first, 1 / (first + (work.output - 1) * step), 1 / step)


def at_load(layout: Layout, on: Slice, work: Workload, each: int, speed: Speed) -> Point:
    """The load at which every lane has `each` sequences. A lane is a data-parallel group, or a batch on its way through a
    pipeline, which has one in each stage.

    In a steady state each output token of a sequence comes with its share of the prompts that follow. The prompts of a lane
    wait for each other like customers of one server (M/D/1), and the first for the step that is running.
    """
    lanes = layout.data_parallel * layout.pipeline_parallel
    step, service = _step_and_prompt(layout, on, work, each, speed)
    prompt = work.prompt * prompt_token_seconds(layout, on, work.prompt, speed)
    stalled_by = 1 if speed.prompts_meet else layout.data_parallel
    tpot = step + each / work.output * stalled_by * prompt
    rate = lanes * each / (work.output * tpot)
    busy = rate * stalled_by / lanes * service
    wait = busy * service / (2 * (1 - busy)) if busy < 1 else math.inf
    return Point(lanes * each, tpot, tpot / 2 + wait + service, rate, lanes * each / tpot)


def _step_and_prompt(layout: Layout, on: Slice, work: Workload, each: int, speed: Speed) -> tuple[float, float]:
    """Seconds of a decoding step with `each` sequences on a lane, and of a prompt that rides on such steps."""
    step = step_seconds(layout, on, each, work.prompt + work.output // 2, speed)
    prompt = work.prompt * prompt_token_seconds(layout, on, work.prompt, speed)
    return step, math.ceil(work.prompt / STEP_TOKENS) * step + prompt


def step_seconds(layout: Layout, on: Slice, sequences: int, context: int, speed: Speed) -> float:
    """Seconds of a decoding step of one lane, through all stages of a pipeline in turn."""
    roof = decode_seconds(_timed(layout, speed), on.generation, sequences, context)
    return roof / speed.decode + _step_all_reduces(layout) * all_reduce_seconds(layout, on, sequences)


def prompt_token_seconds(layout: Layout, on: Slice, prompt: int, speed: Speed) -> float:
    """Seconds that each token of a prompt adds to the steps of its lane: arithmetic or links, whichever takes longer."""
    arithmetic = prompt_seconds(_timed(layout, speed), on.generation, prompt) / prompt / speed.prefill
    chunk = min(prompt, STEP_TOKENS)
    return max(arithmetic, _step_all_reduces(layout) * all_reduce_seconds(layout, on, chunk) / chunk)


def all_reduce_seconds(layout: Layout, on: Slice, tokens: int) -> float:
    """Seconds to sum the residual stream of `tokens` tokens over a group's chips (jax-ml/scaling-book, sharding.md).

    A rectangle of chips as square as possible, without wrap-around links (v5e and v6e have them from 16 chips in a row on).
    The other collectives of a step, few and small, are not priced.
    """
    sides = group_sides(on, layout.tensor_parallel)
    used = sum(side > 1 for side in sides)
    if not used:
        return 0.0
    link = on.generation.ici_bytes_per_s / 2 / (2 * len(sides))  # one way: the figure counts both ways of all links
    hops = sum(side - 1 for side in sides)
    transfer = tokens * layout.shape.hidden * _BF16_BYTES / (link * used)
    return 2 * max(hops * ICI_HOP_S, transfer)


def group_sides(on: Slice, chips: int) -> tuple[int, ...]:
    """Sides of a tensor-parallel group within the topology: 8 chips of a 4x4 are 2x4."""
    sides = [1] * on.topology.count("x") + [1]
    limits = [int(side) for side in on.topology.split("x")]
    while math.prod(sides) < chips:
        shortest = min((n for n, side in enumerate(sides) if side < limits[n]), key=lambda n: sides[n])
        sides[shortest] *= 2
    return tuple(sides)


def _step_all_reduces(layout: Layout) -> int:
    """One after attention and one after the feed-forward of each layer, as the compiler makes it (docs/layouts.md)."""
    return 2 * layout.shape.layers


def _timed(layout: Layout, speed: Speed) -> Layout:
    is_narrow = layout.dtype == "int8" and not speed.int8_helps
    return dataclasses.replace(layout, dtype="bfloat16") if is_narrow else layout

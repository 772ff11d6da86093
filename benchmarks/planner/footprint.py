"""What a layout takes of each chip and of the links between chips: by formula, or from compiled programs (record.py)."""

from dataclasses import dataclass

from apps.slice.memory import Layout, kv_tokens, program_bytes_per_chip, weight_bytes_per_chip
from apps.slice.topology import Generation

UTILIZATION = 0.9
"""`gpu_memory_utilization` of serve_configs/gemma.yaml."""
STEP_TOKENS = 4096
"""Prompt tokens that a group takes on in one step: `max_num_batched_tokens` of serve_configs/gemma.yaml."""
ALL_REDUCE_ROUNDS = 2
"""Times that an all-reduce sends its result round the chips. What other collectives take is in the figures that were fitted
with all-reduces alone (published.py)."""
_BF16_BYTES = 2


@dataclass(frozen=True)
class Footprint:
    """Bytes are those of a chip of the stage that has the most."""

    weight_bytes: float
    kv_tokens: int
    """Tokens that the cache of one data-parallel group holds at `UTILIZATION`."""
    program_bytes: float
    """Temporaries of a step with `STEP_TOKENS` tokens, in what the engine leaves free."""
    rounds: float
    """Rounds of the all-reduces in a step."""
    moved_bytes_per_token: float
    """Results of the all-reduces in a step, once for each round, by the tokens of the step."""
    is_compiled: bool = False


def by_formula(layout: Layout, generation: Generation) -> Footprint:
    """Two all-reduces of the residual stream in each layer, one after attention and one after the feed-forward."""
    program = program_bytes_per_chip(layout, STEP_TOKENS)
    has_room = program <= (1 - UTILIZATION) * generation.usable_bytes
    rounds = ALL_REDUCE_ROUNDS * 2 * layout.shape.layers if layout.tensor_parallel > 1 else 0
    return Footprint(
        weight_bytes_per_chip(layout),
        kv_tokens(layout, generation, UTILIZATION) if has_room else 0,
        program,
        rounds,
        rounds * layout.shape.hidden * _BF16_BYTES,
    )

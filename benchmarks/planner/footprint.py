"""What a layout takes of each chip and of the links between chips: by formula, or from compiled programs (record.py)."""

from dataclasses import dataclass, replace
from typing import Any

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
Key = tuple[str, str, str]
"""Generation, topology and layout of compiled programs, by their names."""


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


def engine_arguments(layout: Layout, max_context: int, sequences: int) -> dict[str, Any]:
    """vLLM's arguments for a layout with so many sequences at once; None for one that is left out."""
    return {
        "tensor_parallel_size": layout.tensor_parallel,
        "data_parallel_size": layout.data_parallel if layout.data_parallel > 1 else None,
        "pipeline_parallel_size": layout.pipeline_parallel if layout.pipeline_parallel > 1 else None,
        "kv_cache_dtype": layout.kv_dtype if layout.kv_dtype != "bfloat16" else None,
        "gpu_memory_utilization": UTILIZATION,
        "max_model_len": max_context,
        "max_num_seqs": sequences,
        "max_num_batched_tokens": STEP_TOKENS,
    }


@dataclass(frozen=True)
class Programs:
    """A layout's figures from the engine over described chips; bytes are those of one chip."""

    model: str
    accelerator: str
    topology: str
    layout: str
    max_context: int
    weight_bytes: int
    kv_bytes_per_token: float
    """KV cache of a token of one data-parallel group."""
    kv_tokens: int
    """Tokens that the cache of one group holds."""
    tokens: int
    """Tokens of a group in the step whose collectives these are: how many of each kind, and the bytes of their results."""
    collectives: dict[str, dict[str, int]]
    temp_bytes: int
    layers: int | None
    """Layers that the model was cut to, and its step compiled without the embedding; None for the whole."""
    versions: dict[str, str]

    def footprint(self, layout: Layout, generation: Generation) -> Footprint:
        """What the planner uses of it: as compiled, or as many blocks of a cut model as the whole one has."""
        formula, hidden = by_formula(layout, generation), layout.shape.hidden
        count, moved = self.collectives["all-reduce"]["count"], self.collectives["all-reduce"]["bytes"] / self.tokens
        weights, tokens = float(self.weight_bytes), self.kv_tokens
        if self.layers:
            blocks = layout.shape.layers // self.layers
            weights += formula.weight_bytes - by_formula(self.compiled_of(layout), generation).weight_bytes
            tokens = int((UTILIZATION * generation.usable_bytes - weights) / (blocks * self.kv_bytes_per_token))
            count, moved = blocks * count + 1, blocks * moved + hidden * _BF16_BYTES  # and the embedding's
        rounds = (ALL_REDUCE_ROUNDS * count, ALL_REDUCE_ROUNDS * moved)
        return Footprint(weights, tokens, formula.program_bytes, *rounds, is_compiled=True)

    def compiled_of(self, layout: Layout) -> Layout:
        """The layout of the model that was compiled."""
        shape, blocks = layout.shape, layout.shape.layers // (self.layers or layout.shape.layers)
        cut = replace(shape, sliding_layers=shape.sliding_layers // blocks, global_layers=shape.global_layers // blocks)
        return replace(layout, shape=cut)

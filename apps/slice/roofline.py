"""The least time that a step of the model can take on a slice: what its chips must read and compute, at their peak rates.

A lower bound, not a prediction: links between chips, launches and sampling cost nothing here.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from apps.slice.memory import Layout, kv_read_bytes_per_chip, weight_bytes_per_chip
from apps.slice.models import ModelShape
from apps.slice.topology import Generation


@dataclass(frozen=True)
class Chunk:
    """New tokens of one sequence in a step: one for decoding, more for a piece of a prompt."""

    tokens: int
    context: int
    """Tokens of the sequence before these."""


def step_seconds(layout: Layout, generation: Generation, chunks: Iterable[Chunk]) -> float:
    """Seconds for one step over `chunks`, the sequences of one data-parallel group."""
    chunks = list(chunks)
    read = weight_bytes_per_chip(layout) + sum(kv_read_bytes_per_chip(layout, c.context + c.tokens) for c in chunks)
    flops = sum(_flops(layout.shape, chunk) for chunk in chunks) / layout.tensor_parallel
    return max(read / generation.hbm_bytes_per_s, flops / _peak(layout, generation))


def _flops(shape: ModelShape, chunk: Chunk) -> float:
    """Multiply-adds count twice. Each new token attends over half of the chunk's own tokens on average."""
    seen = chunk.context + chunk.tokens / 2
    sliding = shape.sliding_layers * shape.sliding_head_dim * min(seen, shape.window)
    attention = 4 * shape.query_heads * (sliding + shape.global_layers * shape.global_head_dim * seen)
    return chunk.tokens * (2 * shape.layer_parameters + attention) + 2 * shape.embedding_parameters


def _peak(layout: Layout, generation: Generation) -> float:
    narrow = layout.dtype == "int8" and generation.int8_ops
    return narrow or generation.bf16_flops

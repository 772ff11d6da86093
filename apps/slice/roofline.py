"""The least time that a step of the model can take on a slice: what its chips must read and compute, at their peak rates.

A lower bound, not a prediction: links between chips, launches and sampling cost nothing here. `ceilings` says what follows
from it for a whole slice, so that a figure that no chip can reach is refused.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from apps.slice.memory import Layout, kv_read_bytes_per_chip, read_weight_bytes_per_chip
from apps.slice.models import ModelShape
from apps.slice.topology import Generation


@dataclass(frozen=True)
class Chunk:
    """New tokens of one sequence in a step: one for decoding, more for a piece of a prompt."""

    tokens: int
    context: int
    """Tokens of the sequence before these."""


def step_seconds(layout: Layout, generation: Generation, chunks: Iterable[Chunk]) -> float:
    """Seconds for one step over `chunks`, the sequences of one data-parallel group; through all stages of a pipeline in turn."""
    chunks = list(chunks)
    read = sum(kv_read_bytes_per_chip(layout, chunk.context + chunk.tokens) for chunk in chunks)
    return _seconds(layout, generation, read, sum(_flops(layout.shape, chunk) for chunk in chunks))


def decode_seconds(layout: Layout, generation: Generation, sequences: int, context: int) -> float:
    """`step_seconds` for one token each of so many sequences that have `context` tokens."""
    read = sequences * kv_read_bytes_per_chip(layout, context + 1)
    return _seconds(layout, generation, read, sequences * _flops(layout.shape, Chunk(1, context)))


def prompt_seconds(layout: Layout, generation: Generation, prompt: int) -> float:
    """Seconds that the arithmetic of a prompt of so many tokens takes, on the chips of one stage after the other."""
    return _flops(layout.shape, Chunk(prompt, 0)) / layout.tensor_parallel / peak_ops(layout, generation)


def peak_ops(layout: Layout, generation: Generation) -> float:
    """Operations per second of one chip: its int8 rate for int8 weights where it has one, else its bfloat16 rate.

    8-bit floats are multiplied as bfloat16 on v6e and older (tpu-inference's table of accelerated types).
    """
    narrow = layout.dtype == "int8" and generation.int8_ops
    return narrow or generation.bf16_flops


@dataclass(frozen=True)
class Ceilings:
    """What a layout on its chips cannot exceed, all chips together. Whoever measured more did not measure that.

    They hold for one new token per step and sequence (no speculative decoding) and for prompt tokens that are computed (those
    found in a prefix cache do not count).

        >>> from apps.slice.models import GEMMA_4_31B
        >>> from apps.slice.topology import GENERATIONS
        >>> four_chips = ceilings(Layout(GEMMA_4_31B, tensor_parallel=4, dtype="int8"), GENERATIONS["v6e"])
        >>> four_chips.refusals(prefill_tok_per_s=463_345)  # doctest: +ELLIPSIS
        ['463,345 prefill tok/s is 3.7 times what 4 v6e chips can compute at most (...)']
    """

    layout: Layout
    generation: Generation

    @property
    def prefill_tok_per_s(self) -> float:
        """Prompt tokens per second: the layers' multiplications at the chips' peak; attention and logits cost nothing here."""
        return self.layout.chips * peak_ops(self.layout, self.generation) / (2 * self.layout.shape.layer_parameters)

    @property
    def single_stream_tok_per_s(self) -> float:
        """Output tokens per second of one sequence alone: its chips must read all weights for each token."""
        return self.decode_tok_per_s(1, 0)

    def decode_tok_per_s(self, batch: int, context: int) -> float:
        """Output tokens per second with `batch` sequences in all that have `context` tokens each.

        At the best the groups, and the batches that follow each other through a pipeline's stages, share them evenly.
        """
        each = max(1, batch // (self.layout.data_parallel * self.layout.pipeline_parallel))
        return batch / decode_seconds(self.layout, self.generation, each, context)

    def refusals(
        self, *, prefill_tok_per_s: float | None = None, decode_tok_per_s: float | None = None, batch: int = 1, context: int = 0
    ) -> list[str]:
        """Why measured figures cannot be right; empty where they can. None means not measured.

        Args:
            prefill_tok_per_s: computed prompt tokens per second.
            decode_tok_per_s: output tokens per second of `batch` sequences with at least `context` tokens each.
            batch: sequences at once.
            context: tokens of each.
        """
        decode = self.decode_tok_per_s(batch, context)
        found = [
            self._refusal("prefill", prefill_tok_per_s, self.prefill_tok_per_s, "compute"),
            self._refusal("output", decode_tok_per_s, decode, f"read and compute for {batch} sequences of {context:,} tokens"),
        ]
        return [one for one in found if one]

    def _refusal(self, what: str, figure: float | None, ceiling: float, why: str) -> str | None:
        if figure is None or figure <= ceiling:
            return None
        chips = f"{self.layout.chips} {self.generation.name} chips"
        return f"{figure:,.0f} {what} tok/s is {figure / ceiling:.1f} times what {chips} can {why} at most ({ceiling:,.0f})"


def ceilings(layout: Layout, generation: Generation) -> Ceilings:
    """What the layout cannot exceed on chips of a generation."""
    return Ceilings(layout, generation)


def _seconds(layout: Layout, generation: Generation, kv_bytes: float, flops: float) -> float:
    read = read_weight_bytes_per_chip(layout) + kv_bytes
    return max(read / generation.hbm_bytes_per_s, flops / layout.tensor_parallel / peak_ops(layout, generation))


def _flops(shape: ModelShape, chunk: Chunk) -> float:
    """Multiply-adds count twice. Each new token attends over half of the chunk's own tokens on average."""
    seen = chunk.context + chunk.tokens / 2
    sliding = shape.sliding_layers * shape.sliding_head_dim * min(seen, shape.window)
    attention = 4 * shape.query_heads * (sliding + shape.global_layers * shape.global_head_dim * seen)
    return chunk.tokens * (2 * shape.layer_parameters + attention) + 2 * shape.embedding_parameters

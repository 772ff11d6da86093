"""Lower bound on the time of a model's step on a slice: what its chips must read and compute, at their peak rates.

Not a prediction: links between chips, launches and sampling cost nothing here. `ceilings` derives what a whole slice cannot
exceed under a load, so that a figure that no chip can reach is refused.
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
    """Seconds of a step over `chunks`, the sequences of one data-parallel group, through all stages of a pipeline in turn."""
    chunks = list(chunks)
    read = sum(kv_read_bytes_per_chip(layout, chunk.context + chunk.tokens) for chunk in chunks)
    return _seconds(layout, generation, read, sum(flops(layout.shape, chunk) for chunk in chunks))


def prompt_seconds(layout: Layout, generation: Generation, prompt: int) -> float:
    """Seconds that the arithmetic of a prompt of `prompt` tokens takes, on the chips of one stage after the other."""
    return flops(layout.shape, Chunk(prompt, 0)) / layout.tensor_parallel / peak_ops(layout, generation)


def peak_ops(layout: Layout, generation: Generation) -> float:
    """Operations per second of one chip: its int8 rate for int8 weights where it has one, else its bfloat16 rate.

    8-bit floats are multiplied as bfloat16 on v6e and older (tpu-inference's table of accelerated types).
    """
    narrow = layout.dtype == "int8" and generation.int8_ops
    return narrow or generation.bf16_flops


@dataclass(frozen=True)
class Ceilings:
    """Limits that a layout on its chips cannot exceed under a load, all chips together. A measurement above them is wrong.

    They hold for one new token per step and sequence, so not with speculative decoding.

        >>> from apps.slice.models import GEMMA_4_31B
        >>> from apps.slice.topology import GENERATIONS
        >>> four_chips = ceilings(Layout(GEMMA_4_31B, tensor_parallel=4, dtype="int8"), GENERATIONS["v6e"], 1)
        >>> four_chips.refusals(prompt_tok_per_s=463_345)
        ['463,345 prompt tok/s is 3.7 times what 4 v6e chips can reach at most (125,375)']
    """

    chips: str
    """Number and kind of the chips, for messages."""
    output_tok_per_s: float
    """Output rate of all sequences together."""
    prompt_tok_per_s: float
    """The layers' multiplications at the chips' peak; attention and logits cost nothing here, whatever the load is."""
    tpot_s: float
    """Shortest mean time between the tokens of a sequence."""
    ttft_s: float
    """Shortest time to a request's first token."""

    def refusals(
        self,
        *,
        output_tok_per_s: float | None = None,
        prompt_tok_per_s: float | None = None,
        tpot_s: float | None = None,
        ttft_s: float | None = None,
    ) -> list[str]:
        """Reasons why measured figures cannot be right; empty where they can. None means not measured."""
        rates = (("output", output_tok_per_s, self.output_tok_per_s), ("prompt", prompt_tok_per_s, self.prompt_tok_per_s))
        times = (("TPOT", tpot_s, self.tpot_s), ("TTFT", ttft_s, self.ttft_s))
        return [
            *(
                f"{value:,.0f} {what} tok/s is {value / limit:.1f} times what {self.chips} can reach at most ({limit:,.0f})"
                for what, value, limit in rates
                if value is not None and value > limit
            ),
            *(
                f"{value * 1000:,.2f} ms {what} is less than the {least * 1000:,.2f} ms that {self.chips} need at least"
                for what, value, least in times
                if value is not None and value < least
            ),
        ]


def ceilings(layout: Layout, generation: Generation, sequences: int, *, context: int = 0, prompt: int = 1) -> Ceilings:
    """Compute what the layout cannot exceed on chips of a generation under a load.

    In the best case the groups, and the batches that follow each other through a pipeline's stages, share the load evenly, and
    the stages work on different pieces of a prompt at once.

    Args:
        sequences: decoding at once, over all groups; the mean of it is good enough, as steps grow faster than it.
        context: lower bound on the tokens of each while it decodes: its prompt.
        prompt: lower bound on the prompt tokens of a request that are computed; those in a prefix cache do not count.
    """
    each = max(1, sequences // (layout.data_parallel * layout.pipeline_parallel))
    read = each * kv_read_bytes_per_chip(layout, context + 1)
    step = _seconds(layout, generation, read, each * flops(layout.shape, Chunk(1, context)))
    peak = peak_ops(layout, generation)
    arithmetic = flops(layout.shape, Chunk(prompt, 0)) / (layout.tensor_parallel * layout.pipeline_parallel * peak)
    return Ceilings(
        f"{layout.chips} {generation.name} chips",
        output_tok_per_s=sequences / step,
        prompt_tok_per_s=layout.chips * peak / (2 * layout.shape.touched_parameters()),
        tpot_s=step,
        ttft_s=max(arithmetic, read_weight_bytes_per_chip(layout) / generation.hbm_bytes_per_s),
    )


def _seconds(layout: Layout, generation: Generation, kv_bytes: float, operations: float) -> float:
    read = read_weight_bytes_per_chip(layout) + kv_bytes
    return max(read / generation.hbm_bytes_per_s, operations / layout.tensor_parallel / peak_ops(layout, generation))


def flops(shape: ModelShape, chunk: Chunk) -> float:
    """FLOPs of a chunk. Multiply-adds count twice; logits are computed for one token."""
    sliding = shape.sliding_layers * shape.sliding_head_dim * _mean_keys(chunk, shape.window)
    wide = shape.global_layers * shape.global_head_dim * _mean_keys(chunk, chunk.context + chunk.tokens)
    attention = 4 * shape.query_heads * (sliding + wide)
    return chunk.tokens * (2 * shape.touched_parameters() + attention) + 2 * shape.head_parameters


def _mean_keys(chunk: Chunk, window: int) -> float:
    """Keys that a token of the chunk attends over on average: itself and all before it, of which the window's last."""
    growing = min(max(window - chunk.context, 0), chunk.tokens)  # tokens that still see everything
    total = growing * chunk.context + growing * (growing + 1) / 2 + (chunk.tokens - growing) * window
    return total / chunk.tokens

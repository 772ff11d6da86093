"""Memory that a model needs on each chip, and what it leaves for the KV cache.

Agrees with what the TPU engine lays out (docs/layouts.md has the figures): a KV cache of full length in sliding layers too,
with every head stored on at least one chip, and once per chip where heads are fewer (tpu-inference: kv_cache_manager).
"""

from dataclasses import dataclass

from apps.common.errors import UserError
from apps.slice.models import ModelShape
from apps.slice.topology import Generation

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1, "fp8_e5m2": 1, "fp8_e4m3": 1, "int8": 1, "int4": 0.5}
_BF16 = 2
_FLOAT32 = 4


@dataclass(frozen=True)
class Layout:
    """A model on chips: how its weights and its cache are sharded and stored."""

    shape: ModelShape
    tensor_parallel: int
    data_parallel: int = 1
    pipeline_parallel: int = 1
    dtype: str = "bfloat16"
    """Type of the layers' weights; embedding and vision stay in bfloat16 when this is narrower."""
    kv_dtype: str = "bfloat16"
    vision: bool = False
    """Whether the vision encoder is loaded: sharded as the layers are, on every stage (tpu-inference 0.29: gemma4_mm)."""

    def __post_init__(self) -> None:
        for name in ("dtype", "kv_dtype"):
            if getattr(self, name) not in DTYPE_BYTES:
                raise UserError(f"{name} is {getattr(self, name)!r}: give one of {', '.join(DTYPE_BYTES)}")
        sizes = (self.tensor_parallel, self.data_parallel, self.pipeline_parallel)
        if min(sizes) < 1 or self.pipeline_parallel > self.shape.layers:
            raise UserError(
                f"tensor, data and pipeline parallelism are {sizes}: at least 1 each, and no more stages than the "
                f"{self.shape.layers} layers"
            )

    @property
    def chips(self) -> int:
        return self.tensor_parallel * self.data_parallel * self.pipeline_parallel


def checkpoint_bytes(shape: ModelShape) -> int:
    """Bytes of the published weights (bfloat16, with the vision encoder), which every start reads, whatever the layout."""
    return _BF16 * (shape.text_parameters + shape.vision_parameters)


def weight_bytes_per_chip(layout: Layout) -> float:
    """Bytes of weights on each chip; in a pipeline of the last stage, with an even share of the layers and one table."""
    shape, width, stages = layout.shape, DTYPE_BYTES[layout.dtype], layout.pipeline_parallel
    tables = shape.embedding_parameters if stages == 1 else shape.head_parameters
    wide = tables + (shape.vision_parameters if layout.vision else 0)
    return (shape.layer_parameters / stages * width + wide * max(width, _BF16)) / layout.tensor_parallel


def read_weight_bytes_per_chip(layout: Layout, tokens: int | None = None) -> float:
    """Bytes of weights that a step of text reads on the chips of all stages, one chip of each.

    Args:
        layout: of experts, each chip has a part of all.
        tokens: of the step, for which experts are drawn at random; None for the least, the same ones for all.
    """
    shape, width = layout.shape, DTYPE_BYTES[layout.dtype]
    layers = shape.touched_parameters(tokens) * width
    return (layers + shape.head_parameters * max(width, _BF16)) / layout.tensor_parallel


def kv_bytes_per_chip(layout: Layout, context: int) -> float:
    """Bytes of KV cache that one sequence of `context` tokens takes on each chip of its group, of the layers that it has."""
    return _kv_bytes(layout, context, context) / layout.pipeline_parallel


def kv_read_bytes_per_chip(layout: Layout, context: int) -> float:
    """Bytes of KV cache that attention reads for a sequence on the chips of all stages, one chip of each.

    Sliding layers read their window, whatever they keep.
    """
    return _kv_bytes(layout, min(context, layout.shape.window), context)


def program_bytes_per_chip(layout: Layout, tokens: int) -> float:
    """Bytes of temporaries of a step with `tokens` tokens in each data-parallel group: its activations, as a lower bound.

    The residual stream is whole on each chip, in float32 where it is normed and summed; the feed-forward is sharded.
    """
    shape = layout.shape
    stream = shape.hidden * (2 * _FLOAT32 + 2 * _BF16)
    ffn = shape.ffn + shape.experts_per_token * shape.expert_ffn
    return tokens * (stream + 2 * ffn * _BF16 / layout.tensor_parallel)


def kv_budget_per_chip(layout: Layout, generation: Generation, utilization: float) -> float:
    """Bytes of each chip that are left for the KV cache when the engine takes `utilization` (0 to 1) of the usable memory.

    Counted as in tpu-inference (tpu_worker: determine_available_memory): a step's temporaries live in what is not taken.
    """
    return utilization * generation.usable_bytes - weight_bytes_per_chip(layout)


def kv_tokens(layout: Layout, generation: Generation, utilization: float) -> int:
    """Tokens that the cache of one data-parallel group holds; 0 or more."""
    return max(0, int(kv_budget_per_chip(layout, generation, utilization) / kv_bytes_per_chip(layout, 1)))


def global_kv_bytes_per_chip(layout: Layout) -> float:
    """Bytes of KV cache of the global layers alone, on one chip, for each token."""
    return _kv_bytes(layout, 0, 1)


def stored_heads_per_chip(layout: Layout, heads: int) -> float:
    """KV heads that a chip stores of a layer with `heads`.

    tpu-inference packs K and V heads into 32-bit words (kernel.get_kv_cache_shape), four of one byte: a lone head of a
    1-byte cache therefore takes as much as one of two bytes.
    """
    own = max(1, heads / layout.tensor_parallel)
    word = _FLOAT32 // DTYPE_BYTES[layout.kv_dtype]
    return -(-2 * own // word) * word / 2


def _kv_bytes(layout: Layout, sliding_tokens: int, global_tokens: int) -> float:
    shape = layout.shape
    sliding = shape.sliding_layers * stored_heads_per_chip(layout, shape.sliding_kv_heads) * shape.sliding_head_dim
    wide = shape.global_layers * stored_heads_per_chip(layout, shape.global_kv_heads) * shape.global_head_dim
    return 2 * DTYPE_BYTES[layout.kv_dtype] * (sliding * sliding_tokens + wide * global_tokens)

"""Memory that a model needs on each chip, and what it leaves for the KV cache.

Agrees with what the TPU engine lays out (docs/layouts.md has the figures): a KV cache of full length in sliding layers too,
with every head stored on at least one chip, and once per chip where heads are fewer (tpu-inference: kv_cache_manager).
"""

from dataclasses import dataclass

from apps.common.errors import UserError
from apps.slice.models import ModelShape, Stage, stages
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


def usable_bytes(generation: Generation) -> int:
    """Bytes of a chip that a program can use, as far as it is known."""
    return generation.usable_hbm_bytes or generation.hbm_bytes


def model_stages(layout: Layout) -> tuple[Stage, ...]:
    """The stages of a layout, one where there is no pipeline."""
    return stages(layout.shape, layout.pipeline_parallel)


def checkpoint_bytes(shape: ModelShape) -> int:
    """Bytes of the published weights (bfloat16, with the vision encoder), which every start reads, whatever the layout."""
    return _BF16 * (shape.text_parameters + shape.vision_parameters)


def weight_bytes_per_chip(layout: Layout) -> float:
    """Bytes of weights on each chip of the largest stage."""
    return max(stage_weight_bytes(layout, stage) for stage in model_stages(layout))


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
    """Bytes of KV cache that one sequence of `context` tokens takes on each chip of its group's largest stage."""
    return max(_kv_bytes(layout, stage, context, context) for stage in model_stages(layout))


def kv_read_bytes_per_chip(layout: Layout, context: int) -> float:
    """Bytes of KV cache that attention reads for a sequence on the chips of all stages, one chip of each.

    Sliding layers read their window, whatever they keep.
    """
    window = min(context, layout.shape.window)
    return sum(_kv_bytes(layout, stage, window, context) for stage in model_stages(layout))


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
    return utilization * usable_bytes(generation) - weight_bytes_per_chip(layout)


def kv_tokens(layout: Layout, generation: Generation, utilization: float) -> int:
    """Tokens that the cache of one data-parallel group holds; 0 or more."""
    allowed = utilization * usable_bytes(generation)
    held = ((allowed - stage_weight_bytes(layout, stage)) / _kv_bytes(layout, stage, 1, 1) for stage in model_stages(layout))
    return max(0, int(min(held)))


def global_kv_bytes_per_chip(layout: Layout) -> float:
    """Bytes of KV cache of the global layers alone, of all stages, on one chip of each, for each token."""
    return sum(_kv_bytes(layout, stage, 0, 1) for stage in model_stages(layout))


def stored_heads_per_chip(layout: Layout, heads: int) -> float:
    """KV heads that a chip stores of a layer with `heads`.

    tpu-inference packs K and V heads into 32-bit words (kernel.get_kv_cache_shape), four of one byte: a lone head of a
    1-byte cache therefore takes as much as one of two bytes.
    """
    own = max(1, heads / layout.tensor_parallel)
    word = _FLOAT32 // DTYPE_BYTES[layout.kv_dtype]
    return -(-2 * own // word) * word / 2


def stage_weight_bytes(layout: Layout, stage: Stage) -> float:
    """Bytes of weights on each chip of a stage."""
    width = DTYPE_BYTES[layout.dtype]
    wide = max(width, _BF16)
    embedding = layout.shape.head_parameters * wide * stage.tables(layout.shape)
    vision = layout.shape.vision_parameters * wide if layout.vision else 0
    return (layout.shape.parameters_of(stage.sliding, stage.wide) * width + embedding + vision) / layout.tensor_parallel


def _kv_bytes(layout: Layout, stage: Stage, sliding_tokens: int, global_tokens: int) -> float:
    shape = layout.shape
    sliding = stage.sliding * stored_heads_per_chip(layout, shape.sliding_kv_heads) * shape.sliding_head_dim
    wide = stage.wide * stored_heads_per_chip(layout, shape.global_kv_heads) * shape.global_head_dim
    return 2 * DTYPE_BYTES[layout.kv_dtype] * (sliding * sliding_tokens + wide * global_tokens)

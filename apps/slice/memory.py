"""What a model needs of each chip's memory, and what it leaves for the KV cache.

Agrees within 5 % with libtpu's compiler for v6e (tests/slice/test_memory.py has its figures). It knows two ways to keep the
KV cache: as vLLM on TPU allocates it today, and as the model would allow.
"""

from dataclasses import dataclass
from enum import Enum

from apps.errors import UserError
from apps.slice.models import ModelShape
from apps.slice.topology import Generation

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1, "fp8_e5m2": 1, "fp8_e4m3": 1, "int8": 1}
_BF16 = 2


class KvLayout(Enum):
    """How the KV cache is allocated."""

    VLLM_TPU = "vllm-tpu"
    """Full length in sliding layers; KV heads fewer than chips are stored once per chip (tpu-inference: kv_cache_manager)."""
    WINDOW = "window"
    """Sliding layers keep their window only; heads as in VLLM_TPU."""
    IDEAL = "ideal"
    """The window only, and every head stored once over the chips (the sequence is sharded where heads do not divide)."""


@dataclass(frozen=True)
class Layout:
    """A model on chips: how its weights and its cache are cut and stored."""

    shape: ModelShape
    tensor_parallel: int
    data_parallel: int = 1
    dtype: str = "bfloat16"
    """Of the layers' weights; embedding and vision stay in bfloat16 when this is narrower."""
    kv_dtype: str = "bfloat16"
    kv_layout: KvLayout = KvLayout.VLLM_TPU
    vision: bool = False
    """Whether the vision encoder is loaded, on every chip as a whole (which part of it is sharded is not known)."""

    def __post_init__(self) -> None:
        for name in ("dtype", "kv_dtype"):
            if getattr(self, name) not in DTYPE_BYTES:
                raise UserError(f"{name} is {getattr(self, name)!r}: give one of {', '.join(DTYPE_BYTES)}")
        if self.tensor_parallel < 1 or self.data_parallel < 1:
            raise UserError(f"tensor and data parallelism are {self.tensor_parallel} and {self.data_parallel}: at least 1 each")


@dataclass(frozen=True)
class ChipMemory:
    """Bytes on one chip."""

    weights: float
    kv_cache: float
    program: float
    """Temporaries of the compiled step."""

    @property
    def total(self) -> float:
        return self.weights + self.kv_cache + self.program


def weight_bytes_per_chip(layout: Layout) -> float:
    """Bytes of weights on each chip."""
    shape = layout.shape
    width = DTYPE_BYTES[layout.dtype]
    embedding = shape.embedding_parameters * max(width, _BF16)
    vision = shape.vision_parameters * max(width, _BF16) if layout.vision else 0
    return (shape.layer_parameters * width + embedding) / layout.tensor_parallel + vision


def kv_bytes_per_chip(layout: Layout, context: int) -> float:
    """Bytes of KV cache that one sequence of `context` tokens takes on each chip of its data-parallel group."""
    kept = context if layout.kv_layout is KvLayout.VLLM_TPU else min(context, layout.shape.window)
    return _kv_bytes(layout, sliding_tokens=kept, global_tokens=context)


def kv_read_bytes_per_chip(layout: Layout, context: int) -> float:
    """Bytes of KV cache that attention reads on each chip for a sequence: of sliding layers the window, whatever is kept."""
    return _kv_bytes(layout, sliding_tokens=min(context, layout.shape.window), global_tokens=context)


def program_bytes_per_chip(layout: Layout) -> float:
    """Bytes of temporaries of a step: the compiler keeps a copy of the tied embedding in the form that the logits need."""
    return layout.shape.embedding_parameters * _BF16 / layout.tensor_parallel


def chip_memory(layout: Layout, sequences: int, context: int) -> ChipMemory:
    """Memory of each chip with `sequences` of `context` tokens at once, over all data-parallel groups together."""
    per_group = -(-sequences // layout.data_parallel)
    kv_cache = per_group * kv_bytes_per_chip(layout, context)
    return ChipMemory(weight_bytes_per_chip(layout), kv_cache, program_bytes_per_chip(layout))


def kv_budget_per_chip(layout: Layout, generation: Generation, utilization: float) -> float:
    """Bytes of each chip that are left for the KV cache when the engine takes `utilization` (0 to 1) of the usable memory."""
    usable = generation.usable_hbm_bytes or generation.hbm_bytes
    return utilization * usable - weight_bytes_per_chip(layout) - program_bytes_per_chip(layout)


def kv_tokens(layout: Layout, generation: Generation, utilization: float) -> int:
    """Tokens that the cache of one data-parallel group holds, under a layout that takes the same for each token; at least 0."""
    return max(0, int(kv_budget_per_chip(layout, generation, utilization) / kv_bytes_per_chip(layout, 1)))


def global_kv_bytes_per_chip(layout: Layout) -> float:
    """Bytes of KV cache of the global layers alone, on each chip for each token."""
    return _kv_bytes(layout, sliding_tokens=0, global_tokens=1)


def _kv_bytes(layout: Layout, *, sliding_tokens: int, global_tokens: int) -> float:
    shape = layout.shape
    sliding = shape.sliding_layers * _heads_per_chip(layout, shape.sliding_kv_heads) * shape.sliding_head_dim
    wide = shape.global_layers * _heads_per_chip(layout, shape.global_kv_heads) * shape.global_head_dim
    return 2 * DTYPE_BYTES[layout.kv_dtype] * (sliding * sliding_tokens + wide * global_tokens)


def _heads_per_chip(layout: Layout, heads: int) -> float:
    if layout.kv_layout is KvLayout.IDEAL:
        return heads / layout.tensor_parallel
    return max(1, heads / layout.tensor_parallel)

"""Every way to lay a model out on a slice, and its state in vLLM TPU 0.29: tested, untested or failing.

Read in the wheel of tpu-inference 0.29.0, none of it run on a TPU.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from apps.slice.memory import Layout, stored_heads_per_chip
from apps.slice.models import ModelShape
from apps.slice.topology import Slice

_MATRIX = "README of tpu-inference 0.29.0, release matrix of 2026-09-10"
_SHORT = {"bfloat16": "bf16", "fp8": "fp8", "int4": "w4", "fp8_e5m2": "fp8", "fp8_e4m3": "fp8"}


def layout_name(layout: Layout) -> str:
    """Parallelism, type of the weights, type of the KV cache: `DP2xTP8/bf16/fp8` is two groups of eight chips, bfloat16
    weights, an fp8 cache.
    """
    sizes = (("DP", layout.data_parallel), ("PP", layout.pipeline_parallel), ("TP", layout.tensor_parallel))
    parallelism = "x".join(f"{name}{size}" for name, size in sizes if size > 1 or name == "TP")
    return f"{parallelism}/{_SHORT[layout.dtype]}/{_SHORT[layout.kv_dtype]}"


class Status(Enum):
    """Upstream's verdicts, from best to worst."""

    PASSING = "passing"
    UNTESTED = "untested"
    """Upstream: "the functionality exists but has not been recently or thoroughly verified"."""
    BROKEN = "not working"


@dataclass(frozen=True)
class Note:
    """A fact about a candidate and where it was found."""

    text: str
    source: str


@dataclass(frozen=True)
class Candidate:
    """A layout on a slice."""

    layout: Layout
    status: Status
    notes: tuple[Note, ...]

    @property
    def name(self) -> str:
        return layout_name(self.layout)

    @property
    def is_exact(self) -> bool:
        """Whether the model's numbers are left as they were published."""
        return self.layout.dtype == self.layout.kv_dtype == "bfloat16"


def candidates(shape: ModelShape, on: Slice) -> list[Candidate]:
    """All candidates on the devices of a slice, those with more tensor parallelism first."""
    kv_fp8 = "fp8_e5m2" if on.generation.name == "v6e" else "fp8_e4m3"  # tpu_platform.py fp8_dtype
    types = (("bfloat16", "bfloat16"), ("bfloat16", kv_fp8), ("fp8", kv_fp8), ("int4", "bfloat16"))
    return [
        _candidate(Layout(shape, tensor, data, stages, dtype, kv, vision=shape.vision_parameters > 0), on)
        for tensor, data, stages in _cuts(shape, on)
        for dtype, kv in types
    ]


def _cuts(shape: ModelShape, on: Slice) -> Iterator[tuple[int, int, int]]:
    """Tensor, data and pipeline parallel sizes that fill the slice and that vLLM TPU takes."""
    for tensor in range(on.chips, 0, -1):
        if on.chips % tensor == 0 and _divides_heads(tensor, shape):
            yield tensor, on.chips // tensor, 1
    # Each stage is one host, a cluster of its own (tpu_worker: "we can only do pp:4, tp:4, but not pp:2, tp:8").
    if on.hosts > 1 and on.hosts <= shape.layers and _divides_heads(on.chips_per_host, shape):
        yield on.chips_per_host, 1, on.hosts


def _divides_heads(tensor: int, shape: ModelShape) -> bool:
    """Whether heads divide as tpu-inference asks (utils.get_padded_num_heads): query heads are cut evenly, and of KV heads and
    chips one divides the other.
    """
    kv = (shape.sliding_kv_heads, shape.global_kv_heads)
    return shape.query_heads % tensor == 0 and all(heads % tensor == 0 or tensor % heads == 0 for heads in kv)


def _candidate(layout: Layout, on: Slice) -> Candidate:
    notes = (*_parallel_notes(layout, on), *_type_notes(layout))
    has_two_caches = layout.shape.sliding_head_dim != layout.shape.global_head_dim
    if layout.dtype == "int4" or (layout.pipeline_parallel > 1 and has_two_caches):
        return Candidate(layout, Status.BROKEN, notes)
    is_tested = layout.dtype == "bfloat16" and (on.hosts == 1 or layout.pipeline_parallel > 1)
    return Candidate(layout, Status.PASSING if is_tested else Status.UNTESTED, notes)


def _parallel_notes(layout: Layout, on: Slice) -> Iterator[Note]:
    hosts = "one host" if on.hosts == 1 else f"{on.hosts} hosts"
    tested = "passing" if on.hosts == 1 else "untested"
    if layout.pipeline_parallel > 1:
        yield Note("PP over several hosts is the one mode that upstream calls passing there, with other models", _MATRIX)
        if layout.shape.sliding_head_dim == layout.shape.global_head_dim:
            return
        yield Note(
            "Gemma 4's JAX model looks for its KV caches under the model's layer numbers, and a later stage counts its own "
            "from 0: as read, the second stage fails (IndexError, or a cache of the wrong shape); the same in 0.32.0",
            "tpu-inference 0.29.0: models/jax/gemma4.py Gemma4Model.__call__, runner/kv_cache_manager.py get_kv_cache_spec",
        )
        return
    yield Note(f"TP on {hosts}: {tested}", _MATRIX)
    if layout.data_parallel > 1:
        yield Note(f"DP on {hosts}: {tested}", _MATRIX)
        yield Note(
            "DP is one program over all chips: every step takes as long as its slowest group",
            "tpu-inference 0.29.0: core/sched/dp_scheduler.py DPSchedulerOutput",
        )


def _type_notes(layout: Layout) -> Iterator[Note]:
    if layout.dtype == "fp8":
        yield Note(
            "fp8 weights change the answers (measure them); Qwix rules make them while loading, and only TPU7x computes with "
            "them: elsewhere they save memory and reads",
            "tpu-inference 0.29.0: models/jax/utils/qwix/qwix_utils.py; its README lists fp8 as untested",
        )
    if layout.dtype == "int4":
        yield Note(
            "4-bit weights (W4A16, such as google/gemma-4-31B-it-qat-w4a16-ct) need tpu-inference 0.31; 0.29 has no kernel",
            "tpu-inference 0.29.0 and 0.32.0: layers/jax/quantization/compressed_tensors.py",
        )
    if layout.kv_dtype != "bfloat16":
        yield Note(
            "an fp8 cache changes the answers (measure them): on v6e e5m2, with 2 bits of mantissa; it saves memory, "
            "the chips compute in bfloat16",
            "tpu-inference 0.29.0: platforms/tpu_platform.py fp8_dtype",
        )
        yield from _padding_notes(layout)


def _padding_notes(layout: Layout) -> Iterator[Note]:
    """Where a chip has one KV head of a kind of layers, half of each 32-bit word of an fp8 cache stays empty."""
    shape = layout.shape
    kinds = (("sliding", shape.sliding_kv_heads), ("global", shape.global_kv_heads))
    wasteful = [name for name, heads in kinds if stored_heads_per_chip(layout, heads) > max(1, heads / layout.tensor_parallel)]
    if wasteful:
        text = f"one KV head per chip in {' and '.join(wasteful)} layers: there fp8 takes as much memory as bf16"
        yield Note(text, "tpu-inference 0.29.0: ragged_paged_attention/v3/kernel.py get_kv_cache_shape")

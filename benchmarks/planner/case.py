"""One thing to compile: a step of a layout with so many sequences. As JSON it travels to the compile environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apps.slice.memory import ChipMemory, KvLayout, Layout, chip_memory, fullest_stage
from apps.slice.models import ModelShape, Stage
from benchmarks.planner.names import layout_name

_HOST_TOPOLOGY = "2x2"  # of each host of a slice with several hosts, which has 4 chips


@dataclass(frozen=True)
class Case:
    """A step on a slice: decoding, or a piece of a prompt where `prompt_tokens` says how long."""

    shape: ModelShape
    accelerator: str
    topology: str
    tensor_parallel: int
    data_parallel: int
    pipeline_parallel: int
    dtype: str
    kv_dtype: str
    kv_layout: str
    sequences: int
    """Whose KV cache is held, over all data-parallel groups."""
    context: int
    prompt_tokens: int | None = None
    """Of the step, in each group, with the vLLM TPU KV layout only; None for decoding all sequences."""

    @property
    def layout(self) -> Layout:
        """Without the vision encoder, which is not compiled."""
        return Layout(
            self.shape,
            self.tensor_parallel,
            self.data_parallel,
            self.pipeline_parallel,
            self.dtype,
            self.kv_dtype,
            KvLayout(self.kv_layout),
        )

    @property
    def label(self) -> str:
        """For people."""
        what = f"a prompt's {self.prompt_tokens:,} tokens" if self.prompt_tokens else "decoding"
        return f"{layout_name(self.layout)}, {self.sequences} sequences of {self.context:,} tokens, {what}"

    @property
    def per_group(self) -> int:
        """Sequences of each data-parallel group; the last may have fewer, and is padded."""
        return -(-self.sequences // self.data_parallel)

    @property
    def fullest_stage(self) -> Stage:
        """The stage of the pipeline whose chips need the most memory: it is the one to compile."""
        return fullest_stage(self.layout, self.sequences, self.context, self.prompt_tokens)

    @property
    def stage_topology(self) -> str:
        """Topology that a stage runs on: the slice, or one host of it (each host is a cluster of its own in a pipeline)."""
        if self.pipeline_parallel == 1:
            return self.topology
        return _HOST_TOPOLOGY

    @property
    def predicted(self) -> ChipMemory:
        """Memory of each chip by the formula."""
        return chip_memory(self.layout, self.sequences, self.context, self.prompt_tokens)


def case_from(plain: Mapping[str, Any]) -> Case:
    """The case that `dataclasses.asdict` made plain."""
    return Case(**{**plain, "shape": ModelShape(**plain["shape"])})


@dataclass(frozen=True)
class Result:
    """What the TPU compiler said of a case."""

    fits: bool
    total_bytes: int
    """Of each chip. Where it does not fit: what the compiler says it would need, which it rounds to 0.01 GiB or TiB."""
    argument_bytes: int | None
    """Weights and caches; None where the program was refused."""
    temporary_bytes: int | None
    collectives: dict[str, int] | None
    """Times that each kind runs in a step."""
    compile_seconds: float
    versions: dict[str, str]
    """Of jax and libtpu."""

"""What the TPU compiler is asked and answers: a step of a layout with so many sequences, and the memory that it needs.

As JSON both travel between this environment and the compile environment.
"""

import json
from dataclasses import asdict, dataclass

from apps.slice.memory import ChipMemory, KvLayout, Layout, chip_memory, fullest_stage, usable_bytes
from apps.slice.models import ModelShape, Stage
from apps.slice.topology import generation_of

_HOST_TOPOLOGY = "2x2"  # of each host of a slice with several hosts, which has 4 chips
_SHORT = {"bfloat16": "bf16", "int8": "int8", "fp8_e5m2": "fp8"}


def layout_name(layout: Layout) -> str:
    """Parallelism, type of the weights, type of the KV cache: `DP2xTP8/bf16/fp8` is two groups of eight chips, bfloat16
    weights, an fp8 cache.
    """
    sizes = (("DP", layout.data_parallel), ("PP", layout.pipeline_parallel), ("TP", layout.tensor_parallel))
    parallelism = "x".join(f"{name}{size}" for name, size in sizes if size > 1 or name == "TP")
    return f"{parallelism}/{_SHORT[layout.dtype]}/{_SHORT[layout.kv_dtype]}"


@dataclass(frozen=True)
class Case:
    """A step on a slice: decoding all sequences, or a piece of a prompt."""

    layout: Layout
    """Without the vision encoder, which is not compiled."""
    accelerator: str
    topology: str
    sequences: int
    """Those whose KV cache is held, over all data-parallel groups."""
    context: int
    prompt_tokens: int | None = None
    """Length of the piece in each group, with the vLLM TPU KV layout only; None for decoding."""

    @property
    def label(self) -> str:
        """The case in words; the key of its result in compiled.json."""
        what = f"a prompt's {self.prompt_tokens:,} tokens" if self.prompt_tokens else "decoding"
        return f"{layout_name(self.layout)}, {self.sequences} sequences of {self.context:,} tokens, {what}"

    @property
    def per_group(self) -> int:
        """Sequences of each data-parallel group; the last may have fewer, and is padded."""
        return -(-self.sequences // self.layout.data_parallel)

    @property
    def fullest_stage(self) -> Stage:
        """The stage of the pipeline whose chips need the most memory: it is the one to compile."""
        return fullest_stage(self.layout, self.sequences, self.context, self.prompt_tokens)

    @property
    def stage_topology(self) -> str:
        """Topology that a stage runs on: the slice, or one host of it (each host is a cluster of its own in a pipeline)."""
        return self.topology if self.layout.pipeline_parallel == 1 else _HOST_TOPOLOGY

    @property
    def predicted(self) -> ChipMemory:
        """Memory of each chip by the formula."""
        return chip_memory(self.layout, self.sequences, self.context, self.prompt_tokens)

    @property
    def is_predicted_to_fit(self) -> bool:
        return self.predicted.total <= usable_bytes(generation_of(self.accelerator))

    def to_json(self) -> str:
        """The case on one line."""
        return json.dumps(asdict(self), default=lambda kv_layout: kv_layout.value)


def case_from_json(text: str) -> Case:
    """The reverse of `Case.to_json`."""
    values = json.loads(text)
    layout = values.pop("layout")
    layout |= {"shape": ModelShape(**layout["shape"]), "kv_layout": KvLayout(layout["kv_layout"])}
    return Case(Layout(**layout), **values)


@dataclass(frozen=True)
class Result:
    """The TPU compiler's answer to a case."""

    fits: bool
    total_bytes: int
    """Memory of each chip. Where it does not fit: what the compiler would need, which it rounds to 0.01 GiB or TiB."""
    argument_bytes: int | None
    """Weights and caches; None where the program was refused."""
    temporary_bytes: int | None
    collectives: dict[str, int] | None
    """Times that each kind runs in a step."""
    compile_seconds: float
    versions: dict[str, str]
    """Versions of jax and libtpu."""


def difference(case: Case, result: Result) -> float:
    """Relative error of the formula, as a share of the compiler's figure."""
    return case.predicted.total / result.total_bytes - 1

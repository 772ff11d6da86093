"""How layouts are called: `DP2xTP8/bf16/fp8` is two groups of eight chips, bfloat16 weights, an fp8 cache."""

from apps.slice.memory import Layout

_SHORT = {"bfloat16": "bf16", "int8": "int8", "fp8_e5m2": "fp8"}


def parallelism(layout: Layout) -> str:
    """For example `DP2xTP8`."""
    sizes = (("DP", layout.data_parallel), ("PP", layout.pipeline_parallel), ("TP", layout.tensor_parallel))
    return "x".join(f"{name}{size}" for name, size in sizes if size > 1 or name == "TP")


def layout_name(layout: Layout) -> str:
    """Parallelism, type of the weights, type of the KV cache."""
    return f"{parallelism(layout)}/{_SHORT[layout.dtype]}/{_SHORT[layout.kv_dtype]}"

"""How a model is cut over the chips of a slice, and what several hosts need."""

from collections.abc import Mapping
from typing import Any

from apps.checks.findings import Finding
from apps.checks.tpu_memory import shape_of
from apps.slice.memory import KvLayout, Layout, global_kv_bytes_per_chip
from apps.slice.topology import Slice

_SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def check(config: Mapping[str, Any], engine: Mapping[str, Any], shape: Slice) -> list[Finding]:
    """Findings for a config whose keys and types are right."""
    return [*_chips(engine, shape), *_heads(config, engine), *_several_hosts(config, engine, shape)]


def _chips(engine: Mapping[str, Any], shape: Slice) -> list[Finding]:
    sizes = [engine.get(key) or 1 for key in _SIZES]
    total = sizes[0] * sizes[1] * sizes[2]
    if total == shape.chips:
        return []
    message = (
        f"tensor x pipeline x data parallel is {' x '.join(map(str, sizes))} = {total}, and {shape.generation.name} "
        f"{shape.topology} has {shape.chips} chips, all of which a replica takes"
    )
    return [Finding(("engine_kwargs", _SIZES[0]), message, value=engine.get(_SIZES[0]), allowed=str(shape.chips))]


def _heads(config: Mapping[str, Any], engine: Mapping[str, Any]) -> list[Finding]:
    model = shape_of(config)
    tensor_parallel = engine.get(_SIZES[0]) or 1
    path = ("engine_kwargs", _SIZES[0])
    if model is None:
        return []
    if model.query_heads % tensor_parallel:
        return [Finding(path, f"{tensor_parallel} does not divide the model's {model.query_heads} query heads")]
    if model.global_kv_heads % tensor_parallel == 0:
        return []
    stored = global_kv_bytes_per_chip(Layout(model, tensor_parallel))
    needed = global_kv_bytes_per_chip(Layout(model, tensor_parallel, kv_layout=KvLayout.IDEAL))
    times = f"{tensor_parallel / model.global_kv_heads:g} times"
    message = (
        f"{tensor_parallel} chips share {model.global_kv_heads} KV heads of the global layers, so each head is stored "
        f"{times}: {stored:,.0f} bytes per token and chip where {needed:,.0f} would do"
    )
    return [Finding(path, message, "warning", tensor_parallel)]


def _several_hosts(config: Mapping[str, Any], engine: Mapping[str, Any], shape: Slice) -> list[Finding]:
    if shape.hosts == 1:
        return []
    found = []
    backend = engine.get("distributed_executor_backend", "ray")
    if backend != "ray":
        message = f"is {backend!r}: {shape.hosts} hosts are reached through Ray only"
        found.append(Finding(("engine_kwargs", "distributed_executor_backend"), message, value=backend, allowed="ray"))
    variables = (config.get("runtime_env") or {}).get("env_vars") or {}
    if variables.get("TPU_MULTIHOST_BACKEND") != "ray":
        message = f"must be ray: without it vLLM TPU silently runs on one of the {shape.hosts} hosts"
        path = ("runtime_env", "env_vars", "TPU_MULTIHOST_BACKEND")
        found.append(Finding(path, message, value=variables.get("TPU_MULTIHOST_BACKEND"), allowed="ray"))
    return found

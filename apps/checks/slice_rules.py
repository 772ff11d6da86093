"""Check that a model fits its slice: how it is sharded over the chips, what several hosts need, and the memory left.

Memory is checked only where the model's shape is known.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apps.checks.findings import Finding
from apps.common.errors import UserError
from apps.slice.memory import DTYPE_BYTES, Layout, global_kv_bytes_per_chip, kv_budget_per_chip, kv_tokens
from apps.slice.model_config import shape_of_file
from apps.slice.models import ModelShape, recorded_shape
from apps.slice.topology import GIB, Slice

_UTILIZATION = 0.92  # vLLM 0.29's default for gpu_memory_utilization; tests/checks compares it
_SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def check(config: Mapping[str, Any], engine: Mapping[str, Any], shape: Slice) -> list[Finding]:
    """All findings in a config whose keys and types are right."""
    return [
        *_chips(engine, shape),
        *_heads(config, engine),
        *_several_hosts(config, engine, shape),
        *_memory(config, engine, shape.by_device()),
    ]


def shape_of(config: Mapping[str, Any]) -> ModelShape | None:
    """The shape of a config's model: from its config.json where there is one, else from the record; None without either."""
    loading = config.get("model_loading_config") or {}
    source = loading.get("model_source")
    if isinstance(source, str) and (file := Path(source) / "config.json").is_file():
        try:
            return shape_of_file(file)
        except UserError:
            return None
    return recorded_shape(loading.get("model_id", ""))


def _memory(config: Mapping[str, Any], engine: Mapping[str, Any], shape: Slice) -> list[Finding]:
    model = shape_of(config)
    if model is None:
        return []
    context = engine.get("max_model_len") or model.max_context
    path = ("engine_kwargs", "max_model_len")
    if context > model.max_context:
        return [Finding(path, f"is {context:,}, but the model takes {model.max_context:,} tokens at most", value=context)]
    layout = layout_of(model, engine)
    utilization = engine.get("gpu_memory_utilization", _UTILIZATION)
    budget = kv_budget_per_chip(layout, shape.generation, utilization)
    tokens = kv_tokens(layout, shape.generation, utilization)
    if budget <= 0:
        message = f"the weights alone do not fit: {-budget / GIB:.1f} GiB too much on each chip of {shape.generation.name}"
        return [Finding(("engine_kwargs", "gpu_memory_utilization"), message, value=utilization)]
    if context > tokens:
        message = (
            f"is {context:,}, but the KV cache holds {tokens:,} tokens ({budget / GIB:.1f} GiB on each chip at "
            f"gpu_memory_utilization {utilization}): the largest context for one request is {tokens:,}; with 8,192 tokens "
            f"each, {tokens // 8192} requests fit at once"
        )
        return [Finding(path, message, value=engine.get("max_model_len"))]
    if "max_model_len" not in engine:
        message = f"is not set, so the model's limit of {context:,} applies; {tokens // context} such requests fit at once"
        return [Finding(path, message, "warning")]
    return []


def layout_of(model: ModelShape, engine: Mapping[str, Any]) -> Layout:
    """The layout of a model under these engine arguments."""
    dtype, kv_dtype = engine.get("dtype", "auto"), engine.get("kv_cache_dtype", "auto")
    images = engine.get("limit_mm_per_prompt")
    return Layout(
        model,
        engine.get("tensor_parallel_size") or 1,
        data_parallel=engine.get("data_parallel_size") or 1,
        dtype=dtype if dtype in DTYPE_BYTES else "bfloat16",
        kv_dtype=kv_dtype if kv_dtype in DTYPE_BYTES else "bfloat16",
        vision=not (isinstance(images, Mapping) and images.get("image") == 0),
    )


def _chips(engine: Mapping[str, Any], shape: Slice) -> list[Finding]:
    sizes = [engine.get(key) or 1 for key in _SIZES]
    total = sizes[0] * sizes[1] * sizes[2]
    if total == shape.devices:
        return []
    what = "chips" if shape.devices == shape.chips else f"chips of {shape.generation.devices_per_chip} devices each"
    message = (
        f"tensor x pipeline x data parallel is {' x '.join(map(str, sizes))} = {total}, but {shape.generation.name} "
        f"{shape.topology} has {shape.chips} {what}, and a replica takes all of them"
    )
    return [Finding(("engine_kwargs", _SIZES[0]), message, value=engine.get(_SIZES[0]), allowed=str(shape.devices))]


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
    needed = stored * model.global_kv_heads / tensor_parallel
    times = f"{tensor_parallel / model.global_kv_heads:g} times"
    message = (
        f"{tensor_parallel} chips share {model.global_kv_heads} KV heads of the global layers, so each head is stored "
        f"{times}: {stored:,.0f} bytes per token and chip where {needed:,.0f} would do"
    )
    return [Finding(path, message, "warning", tensor_parallel)]


def _several_hosts(config: Mapping[str, Any], engine: Mapping[str, Any], shape: Slice) -> list[Finding]:
    if shape.hosts == 1:
        return []
    findings = []
    backend = engine.get("distributed_executor_backend", "ray")
    if backend != "ray":
        message = f"is {backend!r}: {shape.hosts} hosts can be reached through Ray only"
        findings.append(Finding(("engine_kwargs", "distributed_executor_backend"), message, value=backend, allowed="ray"))
    variables = (config.get("runtime_env") or {}).get("env_vars") or {}
    if variables.get("TPU_MULTIHOST_BACKEND") != "ray":
        message = f"must be ray: without it vLLM TPU silently runs on one of the {shape.hosts} hosts"
        path = ("runtime_env", "env_vars", "TPU_MULTIHOST_BACKEND")
        findings.append(Finding(path, message, value=variables.get("TPU_MULTIHOST_BACKEND"), allowed="ray"))
    return findings

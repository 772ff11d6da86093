"""Does the model fit the chips, and how much context is left for requests? Only where the model's shape is known."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apps.checks.findings import Finding
from apps.common.errors import UserError
from apps.slice.memory import DTYPE_BYTES, Layout, kv_budget_per_chip, kv_tokens
from apps.slice.models import ModelShape, recorded_shape, shape_from_config
from apps.slice.topology import GIB, Slice

_UTILIZATION = 0.92  # vLLM 0.29's default for gpu_memory_utilization; tests/checks compares it


def shape_of(config: Mapping[str, Any]) -> ModelShape | None:
    """The shape of a config's model: from its config.json where that is at hand, else from the record; None if neither is."""
    loading = config.get("model_loading_config") or {}
    source = loading.get("model_source")
    if isinstance(source, str) and (file := Path(source) / "config.json").is_file():
        try:
            return shape_from_config(json.loads(file.read_text()))
        except (UserError, ValueError):
            return None
    return recorded_shape(loading.get("model_id", ""))


def check(config: Mapping[str, Any], engine: Mapping[str, Any], shape: Slice) -> list[Finding]:
    """Findings for a config whose keys and types are right."""
    model = shape_of(config)
    if model is None:
        return []
    context = engine.get("max_model_len") or model.max_context
    path = ("engine_kwargs", "max_model_len")
    if context > model.max_context:
        return [Finding(path, f"is {context:,}, and the model takes {model.max_context:,} tokens at most", value=context)]
    layout = layout_of(model, engine)
    utilization = engine.get("gpu_memory_utilization", _UTILIZATION)
    budget = kv_budget_per_chip(layout, shape.generation, utilization)
    tokens = kv_tokens(layout, shape.generation, utilization)
    if budget <= 0:
        message = f"the weights alone do not fit: {-budget / GIB:.1f} GiB too much on each chip of {shape.generation.name}"
        return [Finding(("engine_kwargs", "gpu_memory_utilization"), message, value=utilization)]
    if context > tokens:
        message = (
            f"is {context:,}, and the KV cache holds {tokens:,} tokens ({budget / GIB:.1f} GiB on each chip at "
            f"gpu_memory_utilization {utilization}): the largest context for one request is {tokens:,}; of 8,192 tokens, "
            f"{tokens // 8192} requests fit at once"
        )
        return [Finding(path, message, value=engine.get("max_model_len"))]
    if "max_model_len" not in engine:
        message = f"is not set, so the model's {context:,} apply; {tokens // context} such requests fit at once"
        return [Finding(path, message, "warning")]
    return []


def layout_of(model: ModelShape, engine: Mapping[str, Any]) -> Layout:
    """How engine arguments cut and store a model."""
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

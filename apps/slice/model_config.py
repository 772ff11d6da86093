"""A model's shape from its config.json: Gemma 2 to 4, Llama 3, Qwen 3, gpt-oss and their like, in the fields of transformers.

What changes the memory in a way that is not counted here is refused and named.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apps.common.errors import UserError
from apps.slice.models import ModelShape

_UNKNOWN = {
    "hidden_size_per_layer_input": "embeddings of each layer",
    "num_kv_shared_layers": "layers that share a KV cache",
    "kv_lora_rank": "a compressed KV cache (latent attention)",
    "first_k_dense_replace": "first layers without experts",
    "mlp_only_layers": "some layers without experts",
}
_NO_MODEL = "is not the config.json of a language model"
_PATTERNS = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6}
"""Each how manieth layer is global where config.json does not list them: the default of the model's class in transformers."""


def read_config(path: Path) -> dict[str, Any]:
    """What a model's config.json says; `path` is the file, or the directory that has it.

    Raises:
        UserError: it cannot be read, or is no JSON object.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(file.read_text())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}): give a model's config.json, or its directory") from None
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise UserError(f"{file}: {_NO_MODEL}")
    return config


def shape_of_file(path: Path) -> ModelShape:
    """The shape by a model's config.json. Raises `UserError` as `read_config` and `shape_from_config`."""
    try:
        return shape_from_config(read_config(path))
    except (AttributeError, TypeError, ArithmeticError):
        raise UserError(f"{path}: {_NO_MODEL}") from None


def shape_from_config(config: dict[str, Any]) -> ModelShape:
    """The shape from what config.json says. The vision encoder's size is not in it, and left out.

    Raises:
        UserError: a field is missing, or the model has parts that are not counted here.
    """
    text = config.get("text_config") or config
    for part, what in _UNKNOWN.items():
        if text.get(part):
            raise UserError(f"config.json: {part} is {text[part]!r}: the memory of {what} is not known here")
    model_type = str(text.get("model_type", config.get("model_type", "")))
    try:
        kinds = _kinds(text, model_type)
        heads, kv_heads = text["num_attention_heads"], text["num_key_value_heads"]
        size = text.get("head_dim") or text["hidden_size"] // heads
        return ModelShape(
            sliding_layers=kinds.count("sliding_attention"),
            global_layers=kinds.count("full_attention"),
            hidden=text["hidden_size"],
            vocab=text["vocab_size"],
            query_heads=heads,
            sliding_kv_heads=kv_heads,
            sliding_head_dim=size,
            global_kv_heads=text.get("num_global_key_value_heads") or kv_heads,
            global_head_dim=text.get("global_head_dim") or size,
            global_k_equals_v=bool(text.get("attention_k_eq_v")),
            window=text["sliding_window"] if "sliding_attention" in kinds else text["max_position_embeddings"],
            max_context=text["max_position_embeddings"],
            tied=text.get("tie_word_embeddings", config.get("tie_word_embeddings", model_type.startswith("gemma"))),
            **_feed_forward(text, model_type),
        )
    except KeyError as error:
        raise UserError(f"config.json: {error.args[0]!r} is missing: the model's memory cannot be computed") from error


def _kinds(text: Mapping[str, Any], model_type: str) -> list[str]:
    """The kind of each layer."""
    if kinds := text.get("layer_types"):
        if other := set(kinds) - {"sliding_attention", "full_attention"}:
            raise UserError(f"config.json: layer_types has {', '.join(sorted(other))}: such layers are not known here")
        if "full_attention" not in kinds:
            raise UserError("config.json: layer_types has no full_attention: such a model is not known here")
        return list(kinds)
    pattern = text.get("sliding_window_pattern") or _PATTERNS.get(model_type, 1)
    layers = range(1, text["num_hidden_layers"] + 1)
    return ["full_attention" if number % pattern == 0 else "sliding_attention" for number in layers]


def _feed_forward(text: Mapping[str, Any], model_type: str) -> dict[str, int]:
    """Widths of what every token passes and of routed experts. Only Gemma 4 has a plain feed-forward beside experts."""
    experts = text.get("num_experts") or text.get("num_local_experts") or text.get("n_routed_experts") or 0
    if not experts or text.get("enable_moe_block") is False:
        return {"ffn": text["intermediate_size"]}
    width = text.get("moe_intermediate_size") or text["intermediate_size"]
    shared = text.get("shared_expert_intermediate_size") or (text.get("n_shared_experts") or 0) * width
    beside = text["intermediate_size"] if model_type.startswith("gemma4") else shared
    each = text.get("num_experts_per_tok") or text.get("top_k_experts") or text["experts_per_token"]
    return {"ffn": beside, "experts": experts, "experts_per_token": each, "expert_ffn": width}

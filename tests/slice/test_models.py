"""Shapes of models: the records against the model cards, and config.json of each family against the records."""

from typing import Any

import pytest

from apps.common.errors import UserError
from apps.slice.memory import Layout, kv_bytes_per_chip
from apps.slice.model_config import shape_from_config
from apps.slice.models import GEMMA_4_31B, recorded_shape, shape_named

_CARDS = [  # billions of parameters, all of the text model and those that a token is multiplied with
    ("gemma-4-26b-a4b", 25.2, 3.8),
    ("gemma-3-27b", 27.0, 27.0),
    ("gemma-2-27b", 27.2, 27.2),
    ("llama-3.3-70b", 70.6, 70.6),
    ("llama-3.1-8b", 8.03, 8.03),
    ("qwen3-32b", 32.8, 32.8),
    ("qwen3-8b", 8.2, 8.2),
    ("qwen3-30b-a3b", 30.5, 3.3),
    ("gpt-oss-120b", 116.8, 5.1),
]


@pytest.mark.parametrize(("name", "all_of_them", "active"), _CARDS)
def test_parameters_are_those_of_the_model_card(name: str, all_of_them: float, active: float) -> None:
    shape = shape_named(name)
    assert shape.text_parameters / 1e9 == pytest.approx(all_of_them, rel=0.01)
    assert (shape.touched_parameters() + shape.head_parameters) / 1e9 == pytest.approx(active, rel=0.1)


def test_more_tokens_touch_more_experts_up_to_all() -> None:
    shape = shape_named("qwen3-30b-a3b")
    counts = [shape.touched_parameters(tokens) for tokens in (1, 2, 16, 10_000)]
    assert counts == sorted(counts)
    assert counts[0] == pytest.approx(shape.touched_parameters())
    assert counts[-1] == pytest.approx(shape.layer_parameters)


_LLAMA = {
    **{"model_type": "llama", "hidden_size": 8192, "intermediate_size": 28_672, "num_hidden_layers": 80, "vocab_size": 128_256},
    **{"num_attention_heads": 64, "num_key_value_heads": 8, "max_position_embeddings": 131_072, "tie_word_embeddings": False},
}
_QWEN_MOE = {
    **{
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 48,
        "vocab_size": 151_936,
    },
    **{"num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "max_position_embeddings": 40_960},
    **{"tie_word_embeddings": False, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
    **{"sliding_window": None, "use_sliding_window": False, "mlp_only_layers": [], "decoder_sparse_step": 1},
}
_GEMMA_2 = {
    **{
        "model_type": "gemma2",
        "hidden_size": 4608,
        "intermediate_size": 36_864,
        "num_hidden_layers": 46,
        "vocab_size": 256_000,
    },
    **{"num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128, "max_position_embeddings": 8192},
    "sliding_window": 4096,
}
_GPT_OSS = {
    **{"model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36, "vocab_size": 201_088},
    **{"num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131_072},
    **{"tie_word_embeddings": False, "num_local_experts": 128, "num_experts_per_tok": 4, "sliding_window": 128},
    "layer_types": ["sliding_attention", "full_attention"] * 18,
}
_GEMMA_3 = {
    "model_type": "gemma3",
    "text_config": {
        **{"model_type": "gemma3_text", "hidden_size": 5376, "intermediate_size": 21_504, "num_hidden_layers": 62},
        **{"num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128, "sliding_window": 1024},
        **{"vocab_size": 262_208, "max_position_embeddings": 131_072},
    },
}
_GEMMA_4_MOE = {
    "text_config": {
        **{"model_type": "gemma4_text", "hidden_size": 2816, "intermediate_size": 2112, "vocab_size": 262_144},
        **{"layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 5, "sliding_window": 1024, "head_dim": 256},
        **{"num_attention_heads": 16, "num_key_value_heads": 8, "num_global_key_value_heads": 2, "global_head_dim": 512},
        **{"attention_k_eq_v": True, "max_position_embeddings": 262_144, "enable_moe_block": True},
        **{"num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 704},
    }
}


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (_LLAMA, "llama-3.3-70b"),
        (_QWEN_MOE, "qwen3-30b-a3b"),
        (_GEMMA_2, "gemma-2-27b"),
        (_GPT_OSS, "gpt-oss-120b"),
        (_GEMMA_3, "gemma-3-27b"),
        (_GEMMA_4_MOE, "gemma-4-26b-a4b"),
    ],
)
def test_the_config_of_each_family_gives_the_recorded_shape(config: dict[str, Any], name: str) -> None:
    shape, recorded = shape_from_config(config), shape_named(name)
    assert shape.text_parameters == recorded.text_parameters
    assert shape.touched_parameters(7) == recorded.touched_parameters(7)
    assert kv_bytes_per_chip(Layout(shape, 4), 100) == kv_bytes_per_chip(Layout(recorded, 4), 100)
    assert (shape.window, shape.max_context) == (recorded.window, recorded.max_context)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"kv_lora_rank": 512}, r"kv_lora_rank is 512: the memory of a compressed KV cache \(latent attention\) is not known"),
        ({"first_k_dense_replace": 3}, "the memory of first layers without experts is not known"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "layer_types has linear_attention"),
    ],
)
def test_what_is_not_counted_is_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        shape_from_config({**_LLAMA, **more})


def gemma_config() -> dict[str, Any]:
    """What transformers would write for the recorded model."""
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    return {
        "text_config": {
            "model_type": "gemma4_text",
            "layer_types": kinds * 10,
            "hidden_size": 5376,
            "intermediate_size": 21504,
            "vocab_size": 262_144,
            "num_attention_heads": 32,
            "num_key_value_heads": 16,
            "head_dim": 256,
            "num_global_key_value_heads": 4,
            "global_head_dim": 512,
            "attention_k_eq_v": True,
            "sliding_window": 1024,
            "max_position_embeddings": 262_144,
        }
    }


def test_a_config_gives_the_recorded_shape() -> None:
    shape = shape_from_config(gemma_config())
    recorded = recorded_shape("google/gemma-4-31B-it")
    assert recorded is not None
    assert shape.text_parameters == recorded.text_parameters
    assert kv_bytes_per_chip(Layout(shape, 16), 1) == 71_680


def test_a_config_with_a_part_unknown_here_is_refused() -> None:
    config = gemma_config()
    config["text_config"]["hidden_size_per_layer_input"] = 256
    with pytest.raises(
        UserError, match="hidden_size_per_layer_input is 256: the memory of embeddings of each layer is not known here"
    ):
        shape_from_config(config)


def test_a_config_without_global_layers_is_refused() -> None:
    config = gemma_config()
    config["text_config"]["layer_types"] = ["sliding_attention"] * 60
    with pytest.raises(UserError, match="has no full_attention"):
        shape_from_config(config)


def test_a_config_without_a_field_names_it() -> None:
    config = gemma_config()
    del config["text_config"]["sliding_window"]
    with pytest.raises(UserError, match="'sliding_window' is missing"):
        shape_from_config(config)


@pytest.mark.parametrize("name", ["gemma-4-31b", "Gemma-4-31B-it", "google/gemma-4-31B-it"])
def test_a_model_has_several_names(name: str) -> None:
    assert shape_named(name) is GEMMA_4_31B


def test_an_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'llama' is not recorded .* give one of gemma-4-31b"):
        shape_named("llama")

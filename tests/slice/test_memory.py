"""Memory per chip, against what libtpu's compiler said for Gemma 4 31B on v6e (ahead of time, no TPU)."""

from typing import Any

import pytest

from apps.errors import UserError
from apps.slice.memory import KvLayout, Layout, chip_memory, kv_bytes_per_chip, kv_tokens, weight_bytes_per_chip
from apps.slice.models import GEMMA_4_31B, recorded_shape, shape_from_config
from apps.slice.topology import GENERATIONS, GIB

V6E = GENERATIONS["v6e"]
# Decode programs: chips, sequences, context, KV layout, the compiler's figure for arguments and temporaries together in GiB.
COMPILED = [
    (16, 16, 8192, KvLayout.WINDOW, 7.045),
    (16, 64, 8192, KvLayout.WINDOW, 16.915),
    (16, 128, 8192, KvLayout.WINDOW, 30.029),
    (16, 136, 8192, KvLayout.WINDOW, 31.67),
    (16, 64, 32768, KvLayout.WINDOW, 46.90),
    (16, 512, 32768, KvLayout.WINDOW, 348.79),
    (16, 40, 8192, KvLayout.VLLM_TPU, 25.734),
    (16, 64, 8192, KvLayout.VLLM_TPU, 38.86),
    (16, 64, 8192, KvLayout.IDEAL, 9.415),
    (8, 32, 8192, KvLayout.WINDOW, 15.866),
    (4, 8, 8192, KvLayout.WINDOW, 18.290),
    (4, 64, 8192, KvLayout.WINDOW, 38.16),
]


@pytest.mark.parametrize(("chips", "sequences", "context", "layout", "gib"), COMPILED)
def test_totals_agree_with_the_compiler(chips: int, sequences: int, context: int, layout: KvLayout, gib: float) -> None:
    memory = chip_memory(Layout(GEMMA_4_31B, chips, kv_layout=layout), sequences, context)
    assert memory.total / GIB == pytest.approx(gib, rel=0.05)


@pytest.mark.parametrize(("chips", "sequences", "context", "layout", "gib"), COMPILED)
def test_what_the_compiler_refused_does_not_fit(chips: int, sequences: int, context: int, layout: KvLayout, gib: float) -> None:
    memory = chip_memory(Layout(GEMMA_4_31B, chips, kv_layout=layout), sequences, context)
    assert V6E.usable_hbm_bytes is not None
    assert (memory.total <= V6E.usable_hbm_bytes) == (gib <= 31.24)


def test_narrow_types_agree_with_the_compiler() -> None:
    """Arguments only: the compiled program was naive about int8 and took 7.5 GiB of temporaries."""
    memory = chip_memory(Layout(GEMMA_4_31B, 16, dtype="int8", kv_dtype="fp8", kv_layout=KvLayout.WINDOW), 64, 8192)
    assert (memory.weights + memory.kv_cache) / GIB == pytest.approx(8.434, rel=0.05)


def test_parameters_add_up_to_the_model_card() -> None:
    assert GEMMA_4_31B.text_parameters == pytest.approx(30.7e9, rel=0.001)
    assert weight_bytes_per_chip(Layout(GEMMA_4_31B, 16)) / GIB == pytest.approx(3.57, rel=0.01)


def test_a_token_costs_what_vllm_on_tpu_allocates() -> None:
    layout = Layout(GEMMA_4_31B, 16)
    assert kv_bytes_per_chip(layout, 1) == 71_680
    assert kv_bytes_per_chip(layout, 1) * 16 == 1_146_880


def test_tokens_are_between_what_the_compiler_took_and_refused() -> None:
    assert 327_680 < kv_tokens(Layout(GEMMA_4_31B, 16), V6E, utilization=0.9) < 524_288


def test_data_parallel_groups_share_the_sequences() -> None:
    one = chip_memory(Layout(GEMMA_4_31B, 8, data_parallel=2), 64, 8192)
    assert one.kv_cache == chip_memory(Layout(GEMMA_4_31B, 8), 32, 8192).kv_cache


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(UserError, match="kv_dtype is 'fp4'"):
        Layout(GEMMA_4_31B, 16, kv_dtype="fp4")


def gemma_config() -> dict[str, Any]:
    """What transformers would write for the recorded model."""
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    return {
        "text_config": {
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
    config["text_config"]["enable_moe_block"] = True
    with pytest.raises(UserError, match="enable_moe_block"):
        shape_from_config(config)


def test_a_config_without_a_field_names_it() -> None:
    config = gemma_config()
    del config["text_config"]["sliding_window"]
    with pytest.raises(UserError, match="'sliding_window' is missing"):
        shape_from_config(config)

"""Memory per chip, against what libtpu's compiler reported for Gemma 4 31B on v6e (ahead of time, no TPU)."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.common.errors import UserError
from apps.slice.memory import (
    KvLayout,
    Layout,
    chip_memory,
    fullest_stage,
    kv_bytes_per_chip,
    kv_tokens,
    max_sequences,
    model_stages,
    stored_heads_per_chip,
    usable_bytes,
    weight_bytes_per_chip,
)
from apps.slice.models import GEMMA_4_31B, recorded_shape, shape_from_config, shape_named, stages
from apps.slice.topology import GENERATIONS, GIB

V6E = GENERATIONS["v6e"]
# Decode programs: chips, sequences, context, KV layout, the compiler's figure in GiB. Of what it accepted, weights and cache:
# the temporaries of that program were its own (docs/layouts.md has one like the engine's). Else all that it would need.
COMPILED = [
    (16, 16, 8192, KvLayout.WINDOW, 6.857),
    (16, 64, 8192, KvLayout.WINDOW, 16.701),
    (16, 128, 8192, KvLayout.WINDOW, 29.826),
    (16, 136, 8192, KvLayout.WINDOW, 31.67),
    (16, 64, 32768, KvLayout.WINDOW, 46.90),
    (16, 512, 32768, KvLayout.WINDOW, 348.79),
    (16, 40, 8192, KvLayout.VLLM_TPU, 25.451),
    (16, 64, 8192, KvLayout.VLLM_TPU, 38.86),
    (16, 64, 8192, KvLayout.IDEAL, 9.201),
    (8, 32, 8192, KvLayout.WINDOW, 15.274),
    (4, 8, 8192, KvLayout.WINDOW, 17.109),
    (4, 64, 8192, KvLayout.WINDOW, 38.16),
]


@pytest.mark.parametrize(("chips", "sequences", "context", "layout", "gib"), COMPILED)
def test_weights_and_cache_agree_with_the_compiler(
    chips: int, sequences: int, context: int, layout: KvLayout, gib: float
) -> None:
    memory = chip_memory(Layout(GEMMA_4_31B, chips, kv_layout=layout), sequences, context)
    accepted = gib <= 31.24
    assert (memory.weights + memory.kv_cache) / GIB == pytest.approx(gib, rel=0.001 if accepted else 0.05)


@pytest.mark.parametrize(("chips", "sequences", "context", "layout", "gib"), COMPILED)
def test_what_the_compiler_refused_does_not_fit(chips: int, sequences: int, context: int, layout: KvLayout, gib: float) -> None:
    memory = chip_memory(Layout(GEMMA_4_31B, chips, kv_layout=layout), sequences, context)
    assert (memory.total <= usable_bytes(V6E)) == (gib <= 31.24)


def test_narrow_types_take_half_where_they_can() -> None:
    """fp8 halves a head pair; a lone head of a chip fills half of each 32-bit word and saves nothing."""
    wide, narrow = (Layout(GEMMA_4_31B, 4, kv_dtype=kv) for kv in ("bfloat16", "fp8"))
    assert stored_heads_per_chip(wide, 16) == stored_heads_per_chip(narrow, 16) == 4
    assert (stored_heads_per_chip(wide, 4), stored_heads_per_chip(narrow, 4)) == (1, 2)
    assert kv_bytes_per_chip(wide, 1) == (50 * 4 * 256 + 10 * 1 * 512) * 2 * 2
    assert kv_bytes_per_chip(narrow, 1) == (50 * 4 * 256 + 10 * 2 * 512) * 2


def test_stages_share_layers_and_the_fullest_counts() -> None:
    """60 layers on 4 stages are 15 each; every sixth is global, so the second has the 18th, 24th and 30th."""
    layout = Layout(GEMMA_4_31B, 4, pipeline_parallel=4)
    assert [(stage.sliding, stage.wide) for stage in model_stages(layout)] == [(13, 2), (12, 3), (13, 2), (12, 3)]
    assert [stage.embeds for stage in model_stages(layout)] == [True, False, False, True]
    assert kv_bytes_per_chip(layout, 1) == (13 * 4 * 256 + 2 * 512) * 2 * 2
    assert fullest_stage(layout, 1, 8192).last  # the embedding, and one global layer more than the first stage


@given(st.integers(1, 8), st.integers(1, 64))
def test_stages_deal_every_layer_once(count: int, layers: int) -> None:
    shape = replace(GEMMA_4_31B, sliding_layers=layers * 5, global_layers=layers)
    pipeline = stages(shape, min(count, shape.layers))
    assert (sum(stage.sliding for stage in pipeline), sum(stage.wide for stage in pipeline)) == (layers * 5, layers)
    sizes = [stage.sliding + stage.wide for stage in pipeline]
    assert max(sizes) - min(sizes) <= 1
    assert (pipeline[0].first, pipeline[-1].last) == (True, True)


@given(
    st.sampled_from([(16, 1, 1), (8, 2, 1), (4, 4, 1), (4, 1, 4)]),
    st.sampled_from(["bfloat16", "int8"]),
    st.sampled_from(["bfloat16", "fp8_e5m2"]),
    st.sampled_from(list(KvLayout)),
    st.integers(512, 262_144),
)
def test_max_sequences_fit_and_one_more_in_each_group_does_not(
    cut: tuple[int, int, int], dtype: str, kv_dtype: str, kept: KvLayout, context: int
) -> None:
    layout = Layout(GEMMA_4_31B, *cut, dtype=dtype, kv_dtype=kv_dtype, kv_layout=kept)
    fitting, allowed = max_sequences(layout, V6E, 0.9, context), 0.9 * usable_bytes(V6E)

    def needed(sequences: int) -> float:
        """Bytes of the fullest stage: its weights and its cache, without the step's temporaries."""
        held = sequences // layout.data_parallel
        full, empty = (chip_memory(layout, layout.data_parallel * n, context, 0) for n in (held, 0))
        return max(full.weights + full.kv_cache, empty.weights)

    assert fitting % layout.data_parallel == 0
    assert needed(fitting) <= allowed
    assert needed(fitting + layout.data_parallel) > allowed


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
    memory = chip_memory(Layout(GEMMA_4_31B, 8, data_parallel=2), 64, 8192)
    assert memory.kv_cache == chip_memory(Layout(GEMMA_4_31B, 8), 32, 8192).kv_cache


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


def test_more_stages_than_layers_are_refused() -> None:
    with pytest.raises(UserError, match="no more stages than the 60 layers"):
        Layout(GEMMA_4_31B, 1, pipeline_parallel=61)

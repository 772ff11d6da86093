"""Memory per chip of Gemma 4 31B on v6e, by hand and by its own rules; test_record.py compares it with the engine's."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.common.errors import UserError
from apps.slice.memory import (
    Layout,
    kv_bytes_per_chip,
    kv_tokens,
    model_stages,
    stage_weight_bytes,
    stored_heads_per_chip,
    usable_bytes,
    weight_bytes_per_chip,
)
from apps.slice.models import GEMMA_4_31B, stages
from apps.slice.topology import GENERATIONS, GIB

V6E = GENERATIONS["v6e"]


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
    assert [stage.tables(GEMMA_4_31B) for stage in model_stages(layout)] == [1, 0, 0, 1]
    assert kv_bytes_per_chip(layout, 1) == (13 * 4 * 256 + 2 * 512) * 2 * 2


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
    st.sampled_from(["bfloat16", "fp8"]),
    st.sampled_from(["bfloat16", "fp8_e5m2"]),
)
def test_the_tokens_fit_and_one_more_does_not(cut: tuple[int, int, int], dtype: str, kv_dtype: str) -> None:
    layout = Layout(GEMMA_4_31B, *cut, dtype=dtype, kv_dtype=kv_dtype)
    allowed, tokens = 0.9 * usable_bytes(V6E), kv_tokens(layout, V6E, 0.9)

    lightest = min(stage_weight_bytes(layout, stage) for stage in model_stages(layout))
    assert lightest + kv_bytes_per_chip(layout, tokens) <= allowed
    if layout.pipeline_parallel == 1:  # else the stage with the most cache need not be the one with the most weights
        assert lightest + kv_bytes_per_chip(layout, tokens + 1) > allowed


def test_parameters_add_up_to_the_model_card() -> None:
    assert GEMMA_4_31B.text_parameters == pytest.approx(30.7e9, rel=0.001)
    assert weight_bytes_per_chip(Layout(GEMMA_4_31B, 16)) / GIB == pytest.approx(3.57, rel=0.01)


def test_a_token_costs_what_vllm_on_tpu_allocates() -> None:
    layout = Layout(GEMMA_4_31B, 16)
    assert kv_bytes_per_chip(layout, 1) == 71_680
    assert kv_bytes_per_chip(layout, 1) * 16 == 1_146_880


def test_tokens_are_between_what_the_compiler_took_and_refused() -> None:
    assert 327_680 < kv_tokens(Layout(GEMMA_4_31B, 16), V6E, utilization=0.9) < 524_288


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(UserError, match="kv_dtype is 'fp4'"):
        Layout(GEMMA_4_31B, 16, kv_dtype="fp4")


def test_more_stages_than_layers_are_refused() -> None:
    with pytest.raises(UserError, match="no more stages than the 60 layers"):
        Layout(GEMMA_4_31B, 1, pipeline_parallel=61)

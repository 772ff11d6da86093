"""Memory per chip of Gemma 4 31B on v6e, by hand and by its own rules; test_record.py compares it with the engine's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.common.errors import UserError
from apps.slice.memory import (
    Layout,
    kv_bytes_per_chip,
    kv_tokens,
    stored_heads_per_chip,
    weight_bytes_per_chip,
)
from apps.slice.models import GEMMA_4_31B
from apps.slice.topology import GENERATIONS, GIB

V6E = GENERATIONS["v6e"]


def test_narrow_types_take_half_where_they_can() -> None:
    """fp8 halves a head pair; a lone head of a chip fills half of each 32-bit word and saves nothing."""
    wide, narrow = (Layout(GEMMA_4_31B, 4, kv_dtype=kv) for kv in ("bfloat16", "fp8"))
    assert stored_heads_per_chip(wide, 16) == stored_heads_per_chip(narrow, 16) == 4
    assert (stored_heads_per_chip(wide, 4), stored_heads_per_chip(narrow, 4)) == (1, 2)
    assert kv_bytes_per_chip(wide, 1) == (50 * 4 * 256 + 10 * 1 * 512) * 2 * 2
    assert kv_bytes_per_chip(narrow, 1) == (50 * 4 * 256 + 10 * 2 * 512) * 2


def test_stages_share_the_layers() -> None:
    """Each of 4 stages has a quarter of the layers, and the last one a table as well."""
    layout, shape = Layout(GEMMA_4_31B, 4, pipeline_parallel=4), GEMMA_4_31B
    assert weight_bytes_per_chip(layout) == (shape.layer_parameters / 4 + shape.head_parameters) * 2 / 4
    assert kv_bytes_per_chip(layout, 1) == (50 * 4 * 256 + 10 * 512) * 2 * 2 / 4


@given(
    st.sampled_from([(16, 1, 1), (8, 2, 1), (4, 4, 1), (4, 1, 4)]),
    st.sampled_from(["bfloat16", "fp8"]),
    st.sampled_from(["bfloat16", "fp8_e5m2"]),
)
def test_the_tokens_fit_and_one_more_does_not(cut: tuple[int, int, int], dtype: str, kv_dtype: str) -> None:
    layout = Layout(GEMMA_4_31B, *cut, dtype=dtype, kv_dtype=kv_dtype)
    allowed, tokens = 0.9 * V6E.usable_bytes, kv_tokens(layout, V6E, 0.9)

    weights = weight_bytes_per_chip(layout)
    assert weights + kv_bytes_per_chip(layout, tokens) <= allowed
    assert weights + kv_bytes_per_chip(layout, tokens + 1) > allowed


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

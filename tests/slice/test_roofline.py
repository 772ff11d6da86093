"""The roofline of a step, against figures computed by hand for Gemma 4 31B on one v6e 4x4 slice."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.slice.memory import Layout
from apps.slice.models import GEMMA_4_31B
from apps.slice.roofline import Chunk, ceilings, prompt_seconds, step_seconds
from apps.slice.topology import GENERATIONS

V6E = GENERATIONS["v6e"]
TP16 = Layout(GEMMA_4_31B, 16)


@pytest.mark.parametrize(("sequences", "ms"), [(16, 4.5), (64, 10.9), (128, 19.5)])
def test_decoding_is_bound_by_memory(sequences: int, ms: float) -> None:
    step = step_seconds(TP16, V6E, [Chunk(1, 8191)] * sequences)
    assert step * 1000 == pytest.approx(ms, rel=0.03)


@pytest.mark.parametrize(("tokens", "context", "ms"), [(2048, 6144, 9.2), (8192, 0, 36.6)])
def test_a_long_prompt_is_bound_by_compute(tokens: int, context: int, ms: float) -> None:
    assert step_seconds(TP16, V6E, [Chunk(tokens, context)]) * 1000 == pytest.approx(ms, rel=0.15)


def test_one_stream_cannot_be_faster_than_the_weights_can_be_read() -> None:
    assert 1 / step_seconds(TP16, V6E, [Chunk(1, 0)]) == pytest.approx(427, rel=0.01)


@given(st.integers(0, 3000), st.integers(1, 3000))
def test_a_prompt_in_two_chunks_is_the_same_arithmetic(first: int, second: int) -> None:
    """Each token attends over itself and what is before it, of sliding layers the last 1024: however the prompt is cut."""
    shape, logits = GEMMA_4_31B, 2 * GEMMA_4_31B.embedding_parameters
    keys = [(min(n, 1024), n) for n in range(1, first + second + 1)]
    attention = sum(4 * 32 * (50 * 256 * near + 10 * 512 * far) for near, far in keys[first:])
    flops = second * 2 * shape.layer_parameters + attention + logits
    at_peak = step_seconds(Layout(shape, 1), replace(V6E, hbm_bytes_per_s=1e30), [Chunk(second, first)])
    assert at_peak == pytest.approx(flops / 918e12)


def test_ceilings_of_one_stream_by_hand() -> None:
    """TP16 reads 61.4 GB / 16 at 1638 GB/s for each token, and computes 2 x 29.3e9 x 1000 operations for 1000 prompt tokens."""
    limits = ceilings(Layout(GEMMA_4_31B, 16), V6E, 1, prompt=1000)
    assert limits.tpot_s * 1000 == pytest.approx(61.4e9 / 16 / 1638e9 * 1000, rel=0.01)
    assert limits.output_tok_per_s == pytest.approx(1 / limits.tpot_s)
    assert limits.ttft_s == pytest.approx(1000 * 2 * 29.3e9 / 16 / 918e12, rel=0.02)
    assert limits.prompt_tok_per_s == pytest.approx(16 * 918e12 / (2 * 29.3e9), rel=0.01)


def test_groups_share_the_sequences_and_not_the_weights() -> None:
    single = ceilings(Layout(GEMMA_4_31B, 4), V6E, 8, context=2000)
    four = ceilings(Layout(GEMMA_4_31B, 4, data_parallel=4), V6E, 32, context=2000)
    assert four.tpot_s == single.tpot_s
    assert four.output_tok_per_s == pytest.approx(4 * single.output_tok_per_s)


@given(st.integers(1, 2000), st.integers(0, 100_000))
def test_more_sequences_never_lower_the_rate_nor_the_time(sequences: int, context: int) -> None:
    layout = Layout(GEMMA_4_31B, 16)
    fewer, more = (ceilings(layout, V6E, n, context=context) for n in (sequences, sequences + 1))
    assert more.output_tok_per_s >= fewer.output_tok_per_s * (1 - 1e-9)
    assert more.tpot_s >= fewer.tpot_s


def test_the_published_463345_prefill_tokens_per_second_are_refused() -> None:
    for dtype in ("bfloat16", "int8"):
        limits = ceilings(Layout(GEMMA_4_31B, 4, dtype=dtype), V6E, 1)
        [why] = limits.refusals(prompt_tok_per_s=463_345)
        assert "463,345 prompt tok/s is" in why
        assert "4 v6e chips" in why


def test_figures_within_the_ceilings_are_not_refused_and_those_beyond_name_the_limit() -> None:
    limits = ceilings(Layout(GEMMA_4_31B, 16), V6E, 64, context=1000, prompt=1000)
    right = {"output_tok_per_s": 2_000.0, "prompt_tok_per_s": 100_000.0, "tpot_s": 0.02, "ttft_s": 0.2}
    assert limits.refusals(**right) == []
    assert limits.refusals() == []
    wrong = {"output_tok_per_s": 1e6, "prompt_tok_per_s": 1e6, "tpot_s": 1e-3, "ttft_s": 1e-4}
    assert len(limits.refusals(**wrong)) == 4
    assert any("1.00 ms TPOT is less than the" in reason for reason in limits.refusals(**wrong))


def test_a_pipeline_adds_no_speed_to_one_stream() -> None:
    whole, staged = Layout(GEMMA_4_31B, 4), Layout(GEMMA_4_31B, 4, pipeline_parallel=4)
    assert ceilings(staged, V6E, 1).tpot_s == pytest.approx(ceilings(whole, V6E, 1).tpot_s, rel=0.05)
    assert prompt_seconds(staged, V6E, 1000) == prompt_seconds(whole, V6E, 1000)

"""The roofline of a step, against figures computed by hand for Gemma 4 31B on one v6e 4x4 slice."""

import pytest

from apps.slice.memory import KvLayout, Layout
from apps.slice.models import GEMMA_4_31B
from apps.slice.roofline import Chunk, step_seconds
from apps.slice.topology import GENERATIONS

V6E = GENERATIONS["v6e"]
TP16 = Layout(GEMMA_4_31B, 16, kv_layout=KvLayout.WINDOW)


@pytest.mark.parametrize(("sequences", "ms"), [(16, 4.5), (64, 10.9), (128, 19.5)])
def test_decoding_is_bound_by_memory(sequences: int, ms: float) -> None:
    step = step_seconds(TP16, V6E, [Chunk(1, 8191)] * sequences)
    assert step * 1000 == pytest.approx(ms, rel=0.03)


@pytest.mark.parametrize(("tokens", "context", "ms"), [(2048, 6144, 9.2), (8192, 0, 36.6)])
def test_a_long_prompt_is_bound_by_compute(tokens: int, context: int, ms: float) -> None:
    assert step_seconds(TP16, V6E, [Chunk(tokens, context)]) * 1000 == pytest.approx(ms, rel=0.15)


def test_one_stream_cannot_be_faster_than_the_weights_can_be_read() -> None:
    assert 1 / step_seconds(TP16, V6E, [Chunk(1, 0)]) == pytest.approx(427, rel=0.01)


def test_allocating_more_does_not_mean_reading_more() -> None:
    full = Layout(GEMMA_4_31B, 16, kv_layout=KvLayout.VLLM_TPU)
    assert step_seconds(full, V6E, [Chunk(1, 8191)] * 64) == step_seconds(TP16, V6E, [Chunk(1, 8191)] * 64)

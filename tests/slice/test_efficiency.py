"""The shares of the roofline give back the published runs that they were taken from: Llama 3.3 70B with TP 8 on v6e-8."""

import pytest

from apps.slice.efficiency import DECODE, PREFILL, WHOLE_STEP
from apps.slice.memory import Layout, read_weight_bytes_per_chip
from apps.slice.models import ModelShape
from apps.slice.topology import slice_of
from benchmarks.planner.predict import Speed, Workload, at_load, step_seconds

LLAMA_70B = ModelShape(0, 80, 8192, 28_672, 128_256, 64, 8, 128, 8, 128, False, 131_072, 131_072)
TP8, V6E_8, WORK = Layout(LLAMA_70B, 8), slice_of("v6e", "2x4"), Workload(1000, 1000)
RUNS = [(64, DECODE.high, 23.11, 25.35), (128, DECODE.low, 30.73, 35.12)]


@pytest.mark.parametrize(("sequences", "decode", "median_ms", "mean_ms"), RUNS)
def test_published_times_come_back(sequences: int, decode: float, median_ms: float, mean_ms: float) -> None:
    speed = Speed(decode, PREFILL.high, int8_helps=False, prompts_meet=True)
    step = step_seconds(TP8, V6E_8, sequences, 1500, speed)
    assert step * 1000 == pytest.approx(median_ms, rel=0.03)
    assert at_load(TP8, V6E_8, WORK, sequences, speed).tpot_s * 1000 == pytest.approx(mean_ms, rel=0.03)


def test_the_share_of_a_whole_step() -> None:
    reading_ms = read_weight_bytes_per_chip(TP8) / V6E_8.generation.hbm_bytes_per_s * 1000
    assert reading_ms / 25.35 == pytest.approx(WHOLE_STEP, rel=0.03)

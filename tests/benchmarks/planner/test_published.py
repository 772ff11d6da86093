"""The figures of efficiency.py are the fit to the published runs, and predictions cover each run that the fit had not seen."""

from dataclasses import replace

import pytest

from apps.slice.efficiency import ACROSS_HOSTS_S, ERROR, FIRST_TOKEN, KV_CACHE, PREFILL, STEP, WEIGHTS, WHOLE_STEP
from apps.slice.memory import Layout, read_weight_bytes_per_chip
from apps.slice.models import shape_named
from apps.slice.topology import GENERATIONS
from benchmarks.planner.predict import FAST, FITTED, SLOW, Speed, at_load
from benchmarks.planner.published import RUNS, Run, fit, left_out, plan_of

FIT, LEFT_OUT = fit(RUNS), left_out()


def test_the_figures_are_the_fit() -> None:
    stored = (WEIGHTS, KV_CACHE, PREFILL, STEP.fitted, ACROSS_HOSTS_S)
    assert stored == pytest.approx((FIT.weights, FIT.kv_cache, FIT.prefill, FIT.step_s, FIT.across_hosts_s), rel=0.01)


@pytest.mark.parametrize(("run", "seconds"), LEFT_OUT, ids=[run.name for run, _ in LEFT_OUT])
def test_the_range_covers_a_run_that_was_left_out(run: Run, seconds: float) -> None:
    assert seconds - (STEP.fitted - STEP.low) <= run.ms / 1000 <= seconds + (STEP.high - STEP.fitted)


@pytest.mark.parametrize("run", [run for run in RUNS if run.ttft_ms], ids=lambda run: run.name)
def test_the_range_covers_the_published_times_to_the_first_token(run: Run) -> None:
    def predicted(speed: Speed) -> float:
        return at_load(plan_of(run), run.work, run.concurrency, speed).ttft_s

    assert run.ttft_ms
    assert predicted(FAST) <= run.ttft_ms / 1000 <= predicted(SLOW)
    left = run.ttft_ms / 1000 - predicted(replace(FITTED, first_token_s=0))
    assert min(abs(left - end) for end in (FIRST_TOKEN.low, FIRST_TOKEN.high)) < 0.001


def test_no_wider_than_that() -> None:
    errors = [run.ms / 1000 - seconds for run, seconds in LEFT_OUT]
    assert STEP.fitted + min(errors) == pytest.approx(STEP.low, abs=1e-4)
    assert STEP.fitted + max(errors) == pytest.approx(STEP.high, abs=1e-4)
    mean = sum(abs(seconds * 1000 / run.ms - 1) for run, seconds in LEFT_OUT) / len(RUNS)
    assert mean == pytest.approx(ERROR, abs=0.005)


def test_the_share_of_a_whole_step() -> None:
    weights = read_weight_bytes_per_chip(Layout(shape_named("llama-3.3-70b"), 8))
    assert weights / GENERATIONS["v6e"].hbm_bytes_per_s * 1000 / 25.35 == pytest.approx(WHOLE_STEP, rel=0.03)

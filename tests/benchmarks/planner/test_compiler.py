"""The real TPU compiler: what it said of the recorded cases, and some of them asked anew.

The compiler's environment takes 1 GB, so these tests are skipped where nobody made it: REQUIRE_COMPILER=1 makes it (CI does).
"""

import json
import os
import time

import pytest

from benchmarks.planner.agreement import difference, fits
from benchmarks.planner.case import Case, Result
from benchmarks.planner.command import main
from benchmarks.planner.compare import CASES, stored
from benchmarks.planner.compiler import compile_all, is_ready

ASKED_ANEW = [CASES[0], CASES[2], CASES[9], CASES[15], CASES[18]]
"""A full cache, one that is too large, an fp8 one on two groups, int8 weights on four, the stage of a pipeline."""


def test_at_least_12_layouts_are_recorded() -> None:
    assert len({case.label for case in CASES}) == len(CASES) >= 12
    assert len({(case.layout, case.context) for case in CASES}) >= 12


@pytest.mark.parametrize(("case", "result"), stored(), ids=lambda one: one.label if isinstance(one, Case) else "")
def test_the_formula_agrees_with_the_record(case: Case, result: Result) -> None:
    assert abs(difference(case, result)) < 0.05
    assert fits(case) == result.fits


@pytest.fixture(scope="module")
def asked_anew() -> list[Result]:
    if not is_ready() and os.environ.get("REQUIRE_COMPILER") != "1":
        pytest.skip("the compile environment is not there (REQUIRE_COMPILER=1 makes it, and so does scripts/plan.py --compile)")
    return compile_all(ASKED_ANEW, print)


@pytest.mark.full
def test_the_compiler_says_what_is_recorded(asked_anew: list[Result]) -> None:
    recorded = dict(stored())
    for case, result in zip(ASKED_ANEW, asked_anew, strict=True):
        assert result.versions == recorded[case].versions
        assert (result.fits, result.total_bytes) == (recorded[case].fits, recorded[case].total_bytes), case.label
        assert result.collectives == recorded[case].collectives


@pytest.mark.full
def test_two_all_reduces_run_for_each_layer(asked_anew: list[Result]) -> None:
    """One after attention and one after the feed-forward, which predict.py prices, and few others."""
    assert asked_anew[0].collectives is not None
    assert 120 <= asked_anew[0].collectives["all-reduce"] <= 135


@pytest.mark.full
def test_an_answer_is_not_asked_for_twice(asked_anew: list[Result]) -> None:
    start = time.monotonic()
    assert compile_all(ASKED_ANEW, pytest.fail) == asked_anew
    assert time.monotonic() - start < 1


@pytest.mark.full
@pytest.mark.usefixtures("asked_anew")
def test_a_plan_is_checked_by_the_compiler(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--topology", "2x2", "--max-context", "8192", "--compile", "--json"]) == 0
    layouts = [one for one in json.loads(capsys.readouterr().out)["layouts"] if one["fits"]]
    assert len(layouts) >= 4
    for one in layouts:
        assert one["compiled"]["fits"], one["name"]
        assert abs(one["compiled"]["difference"]) < 0.05, one["name"]

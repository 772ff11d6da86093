"""The real TPU compiler: its recorded results, and some of them compiled anew.

The compiler's environment takes 1 GB, so these tests are skipped where nobody made it: REQUIRE_COMPILER=1 makes it (CI does).
"""

import json
import os
import time

import pytest

from benchmarks.planner.case import Case, Result, case_from_json, difference
from benchmarks.planner.command import main
from benchmarks.planner.compiler import SOURCES, compile_all, is_ready
from benchmarks.planner.consistency import CASES, stored

COMPILED_ANEW = [CASES[0], CASES[2], CASES[9], CASES[15], CASES[18]]
"""A full cache, one that is too large, an fp8 one on two groups, int8 weights on four, the stage of a pipeline."""


def test_at_least_12_layouts_are_recorded() -> None:
    assert len({case.label for case in CASES}) == len(CASES) >= 12
    assert len({(case.layout, case.context) for case in CASES}) >= 12


@pytest.mark.parametrize(("case", "result"), stored(), ids=lambda value: value.label if isinstance(value, Case) else "")
def test_the_formula_agrees_with_the_record(case: Case, result: Result) -> None:
    assert abs(difference(case, result)) < 0.05
    assert case.is_predicted_to_fit == result.fits


def test_a_case_survives_its_json_and_what_a_result_depends_on_is_there() -> None:
    assert [case_from_json(case.to_json()) for case in CASES] == list(CASES)
    assert [source for source in SOURCES if not source.is_file()] == []


@pytest.fixture(scope="module")
def compiled_anew() -> list[Result]:
    if not is_ready() and os.environ.get("REQUIRE_COMPILER") != "1":
        pytest.skip("the compile environment is not there (REQUIRE_COMPILER=1 makes it, and so does scripts/plan.py --compile)")
    return compile_all(COMPILED_ANEW, print)


@pytest.mark.full
def test_the_compiler_confirms_the_record(compiled_anew: list[Result]) -> None:
    recorded = dict(stored())
    for case, result in zip(COMPILED_ANEW, compiled_anew, strict=True):
        assert result.versions == recorded[case].versions
        assert (result.fits, result.total_bytes) == (recorded[case].fits, recorded[case].total_bytes), case.label
        assert result.collectives == recorded[case].collectives


@pytest.mark.full
def test_two_all_reduces_run_for_each_layer(compiled_anew: list[Result]) -> None:
    """One after attention and one after the feed-forward, which predict.py prices, and few others."""
    assert compiled_anew[0].collectives is not None
    assert 120 <= compiled_anew[0].collectives["all-reduce"] <= 135


@pytest.mark.full
def test_a_result_is_compiled_once(compiled_anew: list[Result]) -> None:
    start = time.monotonic()
    assert compile_all(COMPILED_ANEW, pytest.fail) == compiled_anew
    assert time.monotonic() - start < 1


@pytest.mark.full
@pytest.mark.usefixtures("compiled_anew")
def test_a_plan_is_checked_by_the_compiler(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--topology", "2x2", "--max-context", "8192", "--compile", "--json"]) == 0
    layouts = [layout for layout in json.loads(capsys.readouterr().out)["layouts"] if layout["fits"]]
    assert len(layouts) >= 4
    for layout in layouts:
        assert layout["compiled"]["fits"], layout["name"]
        assert abs(layout["compiled"]["difference"]) < 0.05, layout["name"]

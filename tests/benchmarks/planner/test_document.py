"""docs/layouts.md shows what the commands print."""

from pathlib import Path

import pytest

from benchmarks.planner import published, record
from benchmarks.planner.command import main

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "layouts.md").read_text()


def test_the_table_and_the_recommendation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--price", "2.7"]) == 0
    for paragraph in capsys.readouterr().out.strip().split("\n\n"):
        assert paragraph in DOCUMENT


def test_the_fit_and_the_runs_that_were_left_out() -> None:
    assert published.table() in DOCUMENT


def test_the_formula_beside_the_engine() -> None:
    assert record.table() in DOCUMENT

"""docs/layouts.md shows what the commands print."""

from pathlib import Path

from benchmarks.planner.consistency import stored
from benchmarks.planner.consistency import table as compared
from benchmarks.planner.output import markdown, sentences, table
from benchmarks.planner.plan import plan
from benchmarks.planner.recommend import recommend
from tests.benchmarks.planner.questions import question

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "layouts.md").read_text()


def test_the_table_and_the_recommendation() -> None:
    asked = question()
    planned = plan(asked)
    assert markdown(table(planned, asked)) in DOCUMENT
    for paragraph in sentences(planned, asked, recommend(planned, asked), {}):
        assert paragraph in DOCUMENT


def test_the_formula_beside_the_compiler() -> None:
    assert compared(stored()) in DOCUMENT

"""The formulas of memory beside what the real engine lays out and compiles, as recorded."""

import pytest

from apps.slice.memory import Layout, kv_bytes_per_chip
from apps.slice.topology import Slice, slice_of
from benchmarks.planner.footprint import by_formula
from benchmarks.planner.plan import plan
from benchmarks.planner.record import Programs, known_in, recorded_layouts
from tests.benchmarks.planner.questions import question

RECORDED = recorded_layouts()


def test_each_was_compiled_with_the_same_versions() -> None:
    assert len({tuple(entry.versions.items()) for entry, *_ in RECORDED}) == 1


@pytest.mark.parametrize(
    ("entry", "layout", "on"), RECORDED, ids=[f"{e.topology}-{e.layout}-{e.max_context}" for e, *_ in RECORDED]
)
def test_the_formulas_agree_with_the_engine(entry: Programs, layout: Layout, on: Slice) -> None:
    formula = by_formula(layout, on.generation)
    assert formula.weight_bytes == pytest.approx(entry.weight_bytes, rel=0.015)
    assert kv_bytes_per_chip(layout, 1) == pytest.approx(entry.kv_bytes_per_token, rel=0.001)
    assert formula.kv_tokens == pytest.approx(entry.kv_tokens, rel=0.02)


def test_the_plan_takes_what_was_recorded() -> None:
    asked = question()
    by_name = {row.name: row for row in plan(type(asked)(**{**vars(asked), "known": known_in(asked.shape)}))}
    row, (entry, *_) = by_name["1 x 4x4 TP16/bf16/bf16"], RECORDED[0]
    assert row.footprint.is_compiled
    assert row.footprint.weight_bytes == entry.weight_bytes
    assert row.footprint.rounds == 2 * entry.collectives["all-reduce"]["count"]
    assert not by_name["1 x 4x4 TP16/fp8/fp8"].footprint.is_compiled


def test_a_layout_on_other_chips_is_not_taken_for_it() -> None:
    entry, *_ = RECORDED[0]
    other = Programs(**{**vars(entry), "accelerator": "v5e"})
    asked = question()
    [row] = [row for row in plan(asked) if row.name == "1 x 4x4 TP16/bf16/bf16"]
    assert known_in(asked.shape, [other])(row.candidate, slice_of("v5p", "2x2x1")) is None

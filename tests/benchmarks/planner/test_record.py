"""The formulas of memory beside what the real engine lays out and compiles, as recorded."""

from dataclasses import replace
from pathlib import Path

import pytest

from apps.slice.memory import Layout, kv_bytes_per_chip
from apps.slice.topology import Slice, slice_of
from benchmarks.compile import results
from benchmarks.planner.footprint import Programs, by_formula
from benchmarks.planner.plan import plan
from benchmarks.planner.record import compile_missing, known_in, recorded_layouts
from tests.benchmarks.planner.questions import question

RECORDED = recorded_layouts()


def test_each_was_compiled_with_the_same_versions() -> None:
    assert len({tuple(entry.versions.items()) for entry, *_ in RECORDED}) == 1


@pytest.mark.parametrize(
    ("entry", "layout", "on"), RECORDED, ids=[f"{e.topology}-{e.layout}-{e.max_context}" for e, *_ in RECORDED]
)
def test_the_formulas_agree_with_the_engine(entry: Programs, layout: Layout, on: Slice) -> None:
    layout = entry.compiled_of(layout)
    formula = by_formula(layout, on.generation)
    assert 45e6 < entry.weight_bytes - formula.weight_bytes < 55e6  # the vision tower's position table, whole on every chip
    assert kv_bytes_per_chip(layout, 1) == pytest.approx(entry.kv_bytes_per_token, rel=0.001)
    assert formula.kv_tokens == pytest.approx(entry.kv_tokens, rel=0.02)


def test_the_plan_takes_what_was_recorded() -> None:
    asked = question()
    by_name = {row.name: row for row in plan(replace(asked, known=known_in(asked.shape)))}
    row, (entry, *_) = by_name["1 x 4x4 TP16/bf16/bf16"], RECORDED[0]
    assert row.footprint.is_compiled
    assert row.footprint.weight_bytes == entry.weight_bytes
    assert row.footprint.rounds == 2 * entry.collectives["all-reduce"]["count"]
    assert not by_name["1 x 4x4 TP16/fp8/fp8"].footprint.is_compiled


def test_a_layout_on_other_chips_is_not_taken_for_it() -> None:
    for name, is_known in (("v6e", True), ("v5e", False)):
        asked = replace(question(), on=slice_of(name, "4x4"), known=known_in(question().shape))
        [row] = [row for row in plan(asked) if row.name == "1 x 4x4 TP16/bf16/bf16"]
        assert row.footprint.is_compiled == is_known


def test_a_layout_that_is_not_recorded_is_compiled_for_a_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(results, "ensure_environment", lambda _: Path("python"))
    program = {"name": "backbone", "tokens": 128, "sizes": {}, "fits": True, "temp_bytes": 1}
    reduced = {"all-reduce": {"count": 140, "bytes": 1280}}
    events = [
        {
            "event": "engine",
            "weights_bytes_per_chip": 10**10,
            "kv_bytes_per_token_per_chip": 2e5,
            "kv_tokens": 90_112,
            "versions": {},
        },
        {"event": "plan", "programs": [program]},
        {"event": "program", **program, "collectives": reduced},
    ]
    monkeypatch.setattr(results, "_events", lambda *_: iter(events))
    asked = question(topology="2x2", max_context=8192)
    [row] = [row for row in plan(asked) if row.name == "1 x 2x2 TP4/bf16/bf16"]
    planned = plan(replace(asked, known=compile_missing([row], asked, None)))
    footprint = next(other.footprint for other in planned if other.name == row.name)
    assert footprint.is_compiled
    assert (footprint.weight_bytes, footprint.kv_tokens) == (10**10, 90_112)
    assert (footprint.rounds, footprint.moved_bytes_per_token) == (280, 20)

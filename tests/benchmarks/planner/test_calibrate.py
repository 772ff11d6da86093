"""A user's own run moves every prediction by what it differs from its own, and only a run that can be compared."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from apps.common.errors import UserError
from apps.slice.efficiency import ERROR
from benchmarks.planner.calibrate import calibrated
from benchmarks.planner.footprint import by_formula
from benchmarks.planner.predict import FITTED, Plan, Workload, at_load, single_stream
from tests.benchmarks.planner.questions import question

ASKED = question()
ROOT = Path(__file__).resolve().parents[3]
CONFIG = yaml.safe_load((ROOT / "serve_configs" / "gemma.yaml").read_text())["applications"][0]["args"]["llm_configs"][0]


def result(tmp_path: Path, config: dict[str, Any] | None, slower: float, errors: dict[str, int] | None = None) -> Path:
    """A run of 20 clients on one slice with TP 16 that took so much longer than predicted."""
    from apps.checks.slice_rules import layout_of

    layout = layout_of(ASKED.shape, CONFIG["engine_kwargs"])
    plan = Plan(layout, ASKED.on, by_formula(layout, ASKED.on.generation))
    tpot_s = at_load(plan, Workload(1000, 200), 20, FITTED).tpot_s * slower
    figures = {"tpot_mean_ms": tpot_s * 1000, "e2e_mean_ms": 10_000.0}
    run = {"completed": 100, "errors": errors or {}, "prompt_tokens": 100_000, "output_tokens": 20_000, "elapsed_s": 50.0}
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"setting": {"llm_config": config}, "runs": [{**run, "figures": figures}]}))
    return file


def test_a_run_that_took_twice_as_long_doubles_the_predictions(tmp_path: Path) -> None:
    slow, fast = calibrated(result(tmp_path, CONFIG, 2.0), ASKED)
    assert slow.factor == pytest.approx(2 * (1 + ERROR))
    assert fast.factor == pytest.approx(2 * (1 - ERROR))
    layout = next(row for row in _rows() if row.name == "1 x 4x4 TP16/bf16/bf16").candidate.layout
    plan = Plan(layout, ASKED.on, by_formula(layout, ASKED.on.generation))
    once, twice = (single_stream(plan, ASKED.work, replace(slow, factor=factor)).tpot_s for factor in (1.0, 2.0))
    assert twice == pytest.approx(2 * once)


def _rows() -> list[Any]:
    from benchmarks.planner.plan import plan

    return plan(ASKED)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"accelerator_type": "TPU-V5P"}, "was not measured with gemma-4-31b on v6e"),
        ({"model_loading_config": {"model_id": "Qwen/Qwen3-32B"}}, "was not measured with gemma-4-31b on v6e"),
        ({"experimental_configs": {"emulated_slice": True}}, "no chip computed these answers"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        calibrated(result(tmp_path, {**CONFIG, **change}, 1.0), ASKED)


def test_a_file_without_a_run_to_compare_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no run without errors"):
        calibrated(result(tmp_path, CONFIG, 1.0, {"429": 1}), ASKED)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UserError, match="is not a result of"):
        calibrated(tmp_path / "other.json", ASKED)
    with pytest.raises(UserError, match="cannot be read"):
        calibrated(tmp_path / "none.json", ASKED)


def test_a_result_without_the_servers_config_is_refused_with_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="without the model's Serve config"):
        calibrated(result(tmp_path, None, 1.0), ASKED)

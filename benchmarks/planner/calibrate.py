"""Speeds from a user's own first run: `rts plan --calibrate result.json`, a file that `rts bench` has written.

What was measured, by what the fit to published runs says of the same load, is taken for every layout of the same model and
generation. The ends of a prediction then are the mean error of that fit apart.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from apps.checks.slice_rules import shape_of
from apps.common.errors import UserError
from apps.slice.efficiency import ERROR
from apps.slice.topology import slice_of
from benchmarks.planner.footprint import by_formula
from benchmarks.planner.plan import PlanRequest
from benchmarks.planner.predict import FAST, FITTED, SLOW, Plan, Speed, Workload, at_load
from benchmarks.serving.limits import is_simulated, limits_of


def calibrated(file: Path, request: PlanRequest) -> tuple[Speed, Speed]:
    """The slow and the fast end by the runs of a result.

    Raises:
        UserError: it cannot be read, or is of another model or generation, or has no run without errors that can be compared.
    """
    try:
        content = json.loads(file.read_text())
        config, runs = content["setting"]["llm_config"], content["runs"]
        factors = [_factor(run, config, request, file) for run in runs if run["completed"] and not run["errors"]]
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}): give a file that `rts bench` has written") from None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
        raise UserError(f"{file}: is not a result of `rts bench`, or one without the model's Serve config") from None
    if not factors:
        raise UserError(f"{file}: has no run without errors: nothing can be compared")
    slow, fast = max(factors) * (1 + ERROR), min(factors) * (1 - ERROR)
    return replace(SLOW, step_s=FITTED.step_s, factor=slow), replace(FAST, step_s=FITTED.step_s, factor=fast)


def _factor(run: dict[str, Any], config: dict[str, Any], request: PlanRequest, file: Path) -> float:
    """Measured by predicted time of an output token."""
    if is_simulated(config):
        raise UserError(f"{file}: no chip computed these answers: the engine or the slice was simulated")
    served, shape = limits_of(config), shape_of(config)
    if served is None or shape != request.shape or served.generation != request.on.generation:
        raise UserError(f"{file}: was not measured with {request.model} on {request.on.generation.name}")
    completed, figures = run["completed"], run["figures"]
    prompt, output = (round(run[f"{kind}_tokens"] / completed) for kind in ("prompt", "output"))
    in_flight = completed * figures["e2e_mean_ms"] / 1000 / run["elapsed_s"]  # Little's law
    lanes = served.replicas * served.layout.data_parallel * served.layout.pipeline_parallel
    on = slice_of(served.generation.name, served.topology).by_device()
    plan = Plan(served.layout, on, by_formula(served.layout, on.generation))
    predicted = at_load(plan, Workload(prompt, max(1, output)), max(1, round(in_flight / lanes)), FITTED)
    return float(figures["tpot_mean_ms"]) / 1000 / predicted.tpot_s

"""The question that most tests of the planner ask: the tutorial's model on the tutorial's chips, by the formulas."""

from apps.slice.models import GEMMA_4_31B
from apps.slice.topology import slice_of
from benchmarks.planner.plan import PlanRequest, Row, Slo, plan
from benchmarks.planner.predict import Workload


def question(*, topology: str = "4x4", slo: Slo | None = None, max_context: int = 131_072) -> PlanRequest:
    on = slice_of("v6e", topology)
    return PlanRequest("gemma-4-31b", GEMMA_4_31B, on, slo or Slo(1, 0.05), Workload(1024, 256), max_context, 2.7)


def rows(asked: PlanRequest) -> dict[str, Row]:
    """The rows of the slice itself, by layout."""
    return {row.candidate.name: row for row in plan(asked) if row.on == asked.on}

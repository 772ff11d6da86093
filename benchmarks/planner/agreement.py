"""Where the formula of memory and the TPU compiler agree."""

from apps.slice.memory import usable_bytes
from apps.slice.topology import generation_of
from benchmarks.planner.case import Case, Result


def fits(case: Case) -> bool:
    """What the formula says."""
    return case.predicted.total <= usable_bytes(generation_of(case.accelerator))


def difference(case: Case, result: Result) -> float:
    """Of the formula from the compiler, as a share of the compiler's figure."""
    return case.predicted.total / result.total_bytes - 1

"""Results as the report shows them: each with a name, its runs, and the findings of their validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.serving.limits import SliceLimits, limits_of
from benchmarks.serving.result import Result, Run, read
from benchmarks.serving.validation import Finding, is_invalid, validate


@dataclass(frozen=True)
class ValidatedRun:
    """A run and the findings against it."""

    name: str
    run: Run
    findings: list[Finding]


@dataclass(frozen=True)
class Series:
    """The runs of one result file."""

    name: str
    result: Result

    @cached_property
    def runs(self) -> list[ValidatedRun]:
        setting = self.result.setting
        return [ValidatedRun(f"{self.name}, {run.load.label}", run, validate(setting, run)) for run in self.result.runs]

    @property
    def valid(self) -> list[ValidatedRun]:
        """The runs whose figures are shown."""
        return [validated for validated in self.runs if not is_invalid(validated.findings)]

    @cached_property
    def limits(self) -> SliceLimits | None:
        return limits_of(self.result.setting.llm_config)


def valid_runs(all_series: Sequence[Series]) -> list[ValidatedRun]:
    return [validated for series in all_series for validated in series.valid]


def read_series(paths: list[Path]) -> list[Series]:
    """Results by the names of their files, as far as those differ. Raises `UserError` for a file that is not a result."""
    stems = [path.stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else [str(path.with_suffix("")) for path in paths]
    return [Series(name, read(path)) for name, path in zip(names, paths, strict=True)]

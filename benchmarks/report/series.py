"""Results as the report shows them: each with a name, its runs, and the findings of their validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.serving.figures import Requests
from benchmarks.serving.files import Stored, read
from benchmarks.serving.limits import SliceLimits, limits_of
from benchmarks.serving.records import Record
from benchmarks.serving.result import Result, Run
from benchmarks.serving.validation import Finding, findings_of, is_invalid, valid_best


@dataclass(frozen=True)
class ValidatedRun:
    """A run, the findings against it, and its records; None where they are missing."""

    name: str
    run: Run
    findings: list[Finding]
    records: list[Record] | None

    @cached_property
    def requests(self) -> Requests | None:
        return None if self.records is None else Requests(self.records, self.run.load, self.run.load_s)


@dataclass(frozen=True)
class Series:
    """The runs of one result file."""

    name: str
    stored: Stored

    @property
    def result(self) -> Result:
        return self.stored.result

    @cached_property
    def runs(self) -> list[ValidatedRun]:
        records: Sequence[list[Record] | None] = self.stored.records or [None] * len(self.result.runs)
        return [
            ValidatedRun(f"{self.name}, {_name(run)}", run, findings, kept)
            for run, findings, kept in zip(self.result.runs, findings_of(self.stored), records, strict=True)
        ]

    @property
    def valid(self) -> list[ValidatedRun]:
        """The runs whose figures are shown."""
        return [validated for validated in self.runs if not is_invalid(validated.findings)]

    @property
    def best_is_valid(self) -> bool:
        return valid_best(self.result, [is_invalid(validated.findings) for validated in self.runs])

    @cached_property
    def limits(self) -> SliceLimits | None:
        replicas = [run.replicas for run in self.result.runs if run.replicas]
        return limits_of(self.result.setting.llm_config, max(replicas, default=None))


def _name(run: Run) -> str:
    return f"{run.load.label} ({run.repeat + 1})" if run.repeat else run.load.label


def valid_runs(all_series: Sequence[Series]) -> list[ValidatedRun]:
    return [validated for series in all_series for validated in series.valid]


def read_series(paths: list[Path]) -> list[Series]:
    """Results by the names of their files, as far as those differ. Raises `UserError` for a file that is not a result."""
    stems = [path.stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else [str(path.with_suffix("")) for path in paths]
    return [Series(name, read(path)) for name, path in zip(names, paths, strict=True)]

"""Results as the report shows them: each with a name, its runs, and the findings of their validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.serving.files import Stored, read
from benchmarks.serving.limits import SliceLimits, limits_of
from benchmarks.serving.result import Result
from benchmarks.serving.validation import ValidatedRun, validated_runs


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
        return validated_runs(self.stored, self.name)

    @property
    def valid(self) -> list[ValidatedRun]:
        """The runs whose figures are shown."""
        return [validated for validated in self.runs if validated.is_valid]

    @cached_property
    def limits(self) -> SliceLimits | None:
        replicas = [run.replicas for run in self.result.runs if run.replicas]
        return limits_of(self.result.setting.llm_config, max(replicas, default=None))


def valid_runs(all_series: Sequence[Series]) -> list[ValidatedRun]:
    return [validated for series in all_series for validated in series.valid]


def read_series(paths: list[Path]) -> list[Series]:
    """Results by the names of their files, as far as those differ. Raises `UserError` for a file that is not a result."""
    stems = [path.stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else [str(path.with_suffix("")) for path in paths]
    return [Series(name, read(path)) for name, path in zip(names, paths, strict=True)]

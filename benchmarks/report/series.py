"""Results as the report shows them: each with a name, the runs that the honesty gate lets through, and the others."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.serving.limits import Limits, limits_of
from benchmarks.serving.result import Result, Run, read
from benchmarks.serving.validation import Finding, examine, is_refused


@dataclass(frozen=True)
class Examined:
    """A run and what speaks against it."""

    name: str
    run: Run
    findings: list[Finding]

    @property
    def marks(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "marked"]

    @property
    def refusals(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "refused"]


@dataclass(frozen=True)
class Series:
    """The runs of one result file."""

    name: str
    result: Result
    examined: list[Examined]

    @property
    def shown(self) -> list[Examined]:
        return [one for one in self.examined if not is_refused(one.findings)]

    @property
    def refused(self) -> list[Examined]:
        return [one for one in self.examined if is_refused(one.findings)]

    @cached_property
    def limits(self) -> Limits | None:
        return limits_of(self.result.setting.llm_config)


def read_series(paths: list[Path]) -> list[Series]:
    """Raises `UserError` for a file that is no result."""
    return [series(name, read(path)) for name, path in zip(_names(paths), paths, strict=True)]


def series(name: str, result: Result) -> Series:
    """A result with the gate's findings."""
    examined = [Examined(f"{name}, {run.load.label}", run, examine(result.setting, run)) for run in result.runs]
    return Series(name, result, examined)


def _names(paths: list[Path]) -> list[str]:
    """File names without their ending, as far as they differ."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path.with_suffix("")) for path in paths]

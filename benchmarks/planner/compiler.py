"""The real TPU compiler on a machine without a TPU: its own environment, a process for it, and its earlier results.

All of it is kept in the user's cache directory. The environment has jax and libtpu, which must not be where vLLM runs: vLLM
takes a libtpu that can be imported for a TPU.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from apps.common.errors import OperationError
from apps.common.settings import cache_root
from benchmarks.environments import ROOT, Environment, digest, process, receive, send
from benchmarks.planner.case import Case, Result

REQUIREMENTS = ROOT / "runtime_env" / "requirements-compile.txt"
SOURCES = (
    *(ROOT / "benchmarks" / "planner" / f"{name}.py" for name in ("program", "attention", "hlo", "case")),
    *(ROOT / "apps" / "slice" / f"{name}.py" for name in ("memory", "models")),
    REQUIREMENTS,
)
"""What a result depends on beside its case."""
_INSTALL_DEADLINE_S = 600
_COMPILE_DEADLINE_S = 600  # of one case; the longest known takes 30 s on 2 cores


def compile_all(cases: Sequence[Case], report: Callable[[str], None]) -> list[Result]:
    """Results of all cases, from the cache or from the compiler.

    Args:
        cases: in any order.
        report: called with a line of progress: once where the environment is made, once for each case that is compiled.

    Raises:
        OperationError: the environment cannot be made, or the compiler failed.
    """
    missing = [case for case in dict.fromkeys(cases) if not _file(case).exists()]
    if missing:
        environment = _environment()
        environment.ensure(lambda: sys.executable, report)
        for case, result in zip(missing, _run(environment.python, missing), strict=True):
            _save(case, result)
            report(_summary(case, result))
    return [Result(**json.loads(_file(case).read_text())) for case in cases]


def is_ready() -> bool:
    """Whether the compile environment is there."""
    return _environment().is_installed()


def _environment() -> Environment:
    name = f"env-{digest(REQUIREMENTS)}-{sys.version_info.major}.{sys.version_info.minor}"
    return Environment(cache_root() / "compiler" / name, REQUIREMENTS, "the TPU compiler", _INSTALL_DEADLINE_S)


def _run(python: Path, cases: Sequence[Case]) -> Iterator[Result]:
    """Results in the order of the cases, each as soon as it is known."""
    with tempfile.TemporaryFile("w+") as log, process(python, "benchmarks.planner.program", log, {}) as running:
        assert running.stdin
        for case in cases:
            send(running.stdin, case.to_json())
            line = receive(running, _COMPILE_DEADLINE_S)
            if not line:
                log.seek(0)
                why = log.read().strip()[-1000:] or f"no answer within {_COMPILE_DEADLINE_S} s"
                raise OperationError(f"the compiler failed on {case.label}: {why}")
            yield Result(**json.loads(line))


def _file(case: Case) -> Path:
    key = json.dumps([case.to_json(), [digest(source) for source in SOURCES]])
    return cache_root() / "compiler" / "results" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _save(case: Case, result: Result) -> None:
    file = _file(case)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(asdict(result)))
    draft.replace(file)


def _summary(case: Case, result: Result) -> str:
    verdict = "fits" if result.fits else "does not fit"
    return f"{case.label}: {result.total_bytes / 2**30:.2f} GiB, {verdict} ({result.compile_seconds:.1f} s)"

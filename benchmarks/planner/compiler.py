"""The real TPU compiler on a machine without a TPU: its own environment, a process for it, and its earlier results.

All of it is kept in the user's cache directory. The environment has jax and libtpu, which must not be where vLLM runs: vLLM
takes a libtpu that can be imported for a TPU.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO

from apps.common.errors import OperationError
from apps.common.settings import cache_root, inherited_environment
from benchmarks.planner.case import Case, Result

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "runtime_env" / "requirements-compile.txt"
SOURCES = (
    *(ROOT / "benchmarks" / "planner" / f"{name}.py" for name in ("program", "attention", "hlo", "case")),
    *(ROOT / "apps" / "slice" / f"{name}.py" for name in ("memory", "models")),
    REQUIREMENTS,
)
"""What a result depends on beside its case."""
_COMPLETE = "complete"  # a file that the environment gets last
_INSTALL_DEADLINE_S = 600
_COMPILE_DEADLINE_S = 600  # of one case; the longest known takes 30 s on 2 cores
_VARIABLES = {
    "JAX_PLATFORMS": "cpu",  # else jax searches for a TPU
    "TPU_SKIP_MDS_QUERY": "1",  # and asks Google's metadata server
    "TPU_ACCELERATOR_TYPE": "v6e-16",  # these three only keep libtpu from warning
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else a second process that compiles fails on /tmp/libtpu_lockfile
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


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
        python = _environment(report)
        for case, result in zip(missing, _run(python, missing), strict=True):
            _save(case, result)
            report(_summary(case, result))
    return [Result(**json.loads(_file(case).read_text())) for case in cases]


def is_ready() -> bool:
    """Whether the compile environment is there."""
    return (_home() / _COMPLETE).exists()


def _home() -> Path:
    return cache_root() / "compiler" / f"env-{_digest(REQUIREMENTS)}-{sys.version_info.major}.{sys.version_info.minor}"


def _environment(report: Callable[[str], None]) -> Path:
    """The Python of the compile environment, which is made where it is missing; one process makes it, others wait."""
    home = _home()
    python, done = home / "bin" / "python", home / _COMPLETE
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_name(f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            report(f"making the compile environment in {home} (once)")
            uv = _uv()
            _call([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)])
            _call([uv, "pip", "install", "--quiet", "--python", str(python), "--requirement", str(REQUIREMENTS)])
            done.touch()
    return python


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    uv = shutil.which("uv") or (str(beside) if beside.exists() else None)
    if uv is None:
        raise OperationError(f"uv, which makes the compile environment, is missing: {sys.executable} -m pip install uv")
    return uv


def _call(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_DEADLINE_S)
    except subprocess.TimeoutExpired:
        raise OperationError(f"`{' '.join(command)}` did not finish within {_INSTALL_DEADLINE_S} s") from None
    if done.returncode != 0:
        raise OperationError(f"the compile environment could not be made: {done.stderr.strip()[-500:]}")


def _run(python: Path, cases: Sequence[Case]) -> Iterator[Result]:
    """Results in the order of the cases, each as soon as it is known."""
    with tempfile.TemporaryFile("w+") as log, _compiler(python, log) as process:
        assert process.stdin
        assert process.stdout
        for case in cases:
            deadline = threading.Timer(_COMPILE_DEADLINE_S, process.kill)
            deadline.start()
            with contextlib.suppress(BrokenPipeError):  # it has ended; the empty line below reports that
                process.stdin.write(case.to_json() + "\n")
                process.stdin.flush()
            line = process.stdout.readline()
            deadline.cancel()
            if not line:
                log.seek(0)
                why = log.read().strip()[-1000:] or f"no answer within {_COMPILE_DEADLINE_S} s"
                raise OperationError(f"the compiler failed on {case.label}: {why}")
            yield Result(**json.loads(line))


@contextlib.contextmanager
def _compiler(python: Path, log: IO[str]) -> "Iterator[subprocess.Popen[str]]":
    """A process that compiles what it reads; killed at the end of the block."""
    process = subprocess.Popen(
        [str(python), "-m", "benchmarks.planner.program"],
        cwd=ROOT,
        env={**inherited_environment(), **_VARIABLES, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _file(case: Case) -> Path:
    key = json.dumps([case.to_json(), [_digest(source) for source in SOURCES]])
    return cache_root() / "compiler" / "results" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _save(case: Case, result: Result) -> None:
    file = _file(case)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(asdict(result)))
    draft.replace(file)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _summary(case: Case, result: Result) -> str:
    verdict = "fits" if result.fits else "does not fit"
    return f"{case.label}: {result.total_bytes / 2**30:.2f} GiB, {verdict} ({result.compile_seconds:.1f} s)"

"""The TPU engine's own Python environment: vLLM TPU cannot be installed beside vLLM for the CPU, and needs Python 3.12.

The pins are the image's (runtime_env/requirements-tpu.txt). It lies in the checkout as `.venv-tpu`, for an installed package in
the user's cache.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from apps.common.errors import UserError
from apps.common.settings import cache_root, inherited_environment
from benchmarks.environments import ROOT, Environment

REQUIREMENTS = ROOT / "runtime_env" / "requirements-tpu.txt"
PYTHON = "3.12"
VARIABLES = {
    "TPU_NAME": "none",
    "MODEL_IMPL_TYPE": "flax_nnx",
    "VLLM_DISABLE_COMPILE_CACHE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
"""Variables of a process in it, beside those that every compiler needs."""
_NEEDED_DISK_GIB = 12
_NEEDED_MEMORY_GIB = 6
_DEADLINE_S = 1800
_VERSION_S = 30


def ensure_environment(report: Callable[[str], None]) -> Path:
    """The environment's Python, installed where it is not there yet.

    Raises:
        UserError: no Python 3.12, or too little memory or disk.
        OperationError: the installation failed.
    """
    _check_memory()
    what = "the TPU engine (10 GB)"
    environment = Environment(_home(), REQUIREMENTS, what, _DEADLINE_S, ("--no-deps",))
    environment.ensure(_checked_python, report)
    return environment.python


def _home() -> Path:
    return ROOT / ".venv-tpu" if (ROOT / "pyproject.toml").exists() else cache_root() / "venv-tpu"


def _checked_python() -> str:
    _check_disk(_home().parent)
    return _find_python()


def _find_python() -> str:
    for candidate in _candidates():
        done = subprocess.run([candidate, "--version"], capture_output=True, text=True, timeout=_VERSION_S)
        if done.returncode == 0 and done.stdout.startswith(f"Python {PYTHON}."):
            return candidate
    raise UserError(
        f"the TPU engine needs Python {PYTHON}, but none is on PATH or in pyenv: install it (Debian: apt-get install "
        f"python{PYTHON}-venv; pyenv install {PYTHON}; uv python install {PYTHON})"
    )


def _candidates() -> Iterator[str]:
    if sys.version.startswith(f"{PYTHON}."):
        yield sys.executable
    if on_path := shutil.which(f"python{PYTHON}"):
        yield on_path
    pyenv = Path(inherited_environment().get("PYENV_ROOT") or Path.home() / ".pyenv")
    uv = Path.home() / ".local" / "share" / "uv" / "python"
    for pattern in (pyenv / "versions" / f"{PYTHON}.*", uv / f"cpython-{PYTHON}.*"):
        yield from map(str, sorted(pattern.parent.glob(f"{pattern.name}/bin/python{PYTHON}"), reverse=True))


def _check_disk(directory: Path) -> None:
    free = shutil.disk_usage(directory).free / 2**30
    if free < _NEEDED_DISK_GIB:
        raise UserError(f"{directory}: {free:.1f} GiB free, but the TPU engine needs {_NEEDED_DISK_GIB} GiB")


def _check_memory() -> None:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    if total < _NEEDED_MEMORY_GIB:
        raise UserError(
            f"this machine has {total:.1f} GiB of memory ({free:.1f} free), but the compiler needs {_NEEDED_MEMORY_GIB}"
        )

"""The TPU engine's own Python environment: vLLM TPU cannot be installed beside vLLM for the CPU, and needs Python 3.12.

The pins are the image's (runtime_env/requirements-tpu.txt). It lies in the checkout as `.venv-tpu`, for an installed package in
the user's cache.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from apps.common.errors import OperationError, UserError
from apps.common.settings import cache_root, inherited_environment

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "runtime_env" / "requirements-tpu.txt"
PYTHON = "3.12"
VARIABLES = {
    "JAX_PLATFORMS": "cpu",  # else jax searches for a TPU
    "TPU_SKIP_MDS_QUERY": "1",  # and asks Google's metadata server, tpu-inference without a deadline
    "TPU_ACCELERATOR_TYPE": "v6e-16",  # these three only keep libtpu from warning: the devices are described
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else a second process that compiles fails on /tmp/libtpu_lockfile
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TPU_NAME": "none",
    "MODEL_IMPL_TYPE": "flax_nnx",
    "VLLM_DISABLE_COMPILE_CACHE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
"""Variables of a process in it that compiles for described devices."""
_STAMP = "installed"  # a file that it gets last
_NEEDED_DISK_GIB = 12
_NEEDED_MEMORY_GIB = 6
_DEADLINE_S = 1800
_VERSION_S = 30


def ensure_environment(report: Callable[[str], None]) -> Path:
    """The environment's Python, installed where it is not there yet; one process installs, others wait.

    Raises:
        UserError: no Python 3.12, or too little memory or disk.
        OperationError: uv is missing, or the installation failed.
    """
    _check_memory()
    home, stamp = _home(), _home() / _STAMP
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_name(f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (stamp.exists() and stamp.read_text() == digest(REQUIREMENTS)):
            _check_disk(home.parent)
            base, uv = _find_python(), _uv()
            report(f"installing the TPU engine (10 GB) into {home} (once)")
            _run([uv, "venv", "--quiet", "--clear", "--python", base, str(home)])
            install = [uv, "pip", "install", "--quiet", "--no-deps", "--python", str(home / "bin" / "python")]
            _run([*install, "--requirement", str(REQUIREMENTS)])
            stamp.write_text(digest(REQUIREMENTS))
    return home / "bin" / "python"


def digest(file: Path) -> str:
    """A name for what is in a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _uv() -> str:
    own = (Path(sys.executable).with_name("uv"), ROOT / ".venv-uv" / "bin" / "uv")  # the second: scripts/_environment.sh
    for program in (shutil.which("uv"), *own):
        if program is not None and Path(program).exists():
            return str(program)
    raise OperationError(f"uv, which installs the TPU engine, is missing: {sys.executable} -m pip install uv")


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE_S)
    except subprocess.TimeoutExpired:
        raise OperationError(f"`{' '.join(command)}` did not finish within {_DEADLINE_S} s") from None
    if done.returncode != 0:
        raise OperationError(f"the TPU engine could not be installed: {done.stderr.strip()[-500:]}")


def _home() -> Path:
    return ROOT / ".venv-tpu" if (ROOT / "pyproject.toml").exists() else cache_root() / "venv-tpu"


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
    total = psutil.virtual_memory().total / 2**30
    if total < _NEEDED_MEMORY_GIB:
        raise UserError(f"this machine has {total:.1f} GiB of memory, but the compiler needs {_NEEDED_MEMORY_GIB}")

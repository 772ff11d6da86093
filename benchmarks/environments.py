"""Python environments of their own, for compilers that cannot be installed beside vLLM for the CPU, and processes in them."""

import contextlib
import fcntl
import hashlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from apps.common.errors import OperationError
from apps.common.settings import inherited_environment

ROOT = Path(__file__).resolve().parents[1]
_STAMP = "installed"  # a file that an environment gets last
_VARIABLES = {
    "JAX_PLATFORMS": "cpu",  # else jax searches for a TPU
    "TPU_SKIP_MDS_QUERY": "1",  # and asks Google's metadata server, tpu-inference without a deadline
    "TPU_ACCELERATOR_TYPE": "v6e-16",  # these three only keep libtpu from warning: the devices are described
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else a second process that compiles fails on /tmp/libtpu_lockfile
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


@dataclass(frozen=True)
class Environment:
    """What is to be installed where; `what` is its name for people, `deadline_s` the longest that one step may take."""

    home: Path
    requirements: Path
    what: str
    deadline_s: float
    options: tuple[str, ...] = ()
    """More options of `uv pip install`."""

    @property
    def python(self) -> Path:
        return self.home / "bin" / "python"

    def is_installed(self) -> bool:
        """Whether it is there, with these requirements."""
        stamp = self.home / _STAMP
        return stamp.exists() and stamp.read_text() == digest(self.requirements)

    def ensure(self, find_python: Callable[[], str], report: Callable[[str], None]) -> None:
        """Install it where it is not there yet; one process installs, others wait.

        Args:
            find_python: returns the Python to make it from; called only if that is needed.
            report: called with a line of progress before it is installed.

        Raises:
            OperationError: uv is missing, or the installation failed; and what `find_python` raises.
        """
        self.home.parent.mkdir(parents=True, exist_ok=True)
        with self.home.with_name(f"{self.home.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.is_installed():
                return
            python, uv = find_python(), self._uv()
            report(f"installing {self.what} into {self.home} (once)")
            self._run([uv, "venv", "--quiet", "--clear", "--python", python, str(self.home)])
            install = [uv, "pip", "install", "--quiet", *self.options, "--python", str(self.python)]
            self._run([*install, "--requirement", str(self.requirements)])
            (self.home / _STAMP).write_text(digest(self.requirements))

    def _uv(self) -> str:
        beside = Path(sys.executable).with_name("uv")
        uv = shutil.which("uv") or (str(beside) if beside.exists() else None)
        if uv is None:
            raise OperationError(f"uv, which installs {self.what}, is missing: {sys.executable} -m pip install uv")
        return uv

    def _run(self, command: list[str]) -> None:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=self.deadline_s)
        except subprocess.TimeoutExpired:
            raise OperationError(f"`{' '.join(command)}` did not finish within {self.deadline_s} s") from None
        if done.returncode != 0:
            raise OperationError(f"{self.what} could not be installed: {done.stderr.strip()[-500:]}")


@contextlib.contextmanager
def process(python: Path, module: str, log: IO[str], variables: Mapping[str, str]) -> "Iterator[subprocess.Popen[str]]":
    """A process that compiles what it reads, for devices that are described; killed at the end of the block."""
    running = subprocess.Popen(
        [str(python), "-m", module],
        cwd=ROOT,
        env={**inherited_environment(), **_VARIABLES, **variables, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def send(pipe: IO[str], line: str) -> None:
    """Write a line to a process. One that has exited is noticed by its missing answer."""
    with contextlib.suppress(BrokenPipeError):
        pipe.write(line + "\n")
        pipe.flush()


def receive(running: "subprocess.Popen[str]", deadline_s: float) -> str:
    """The next line from a process; empty if it exited, or was killed as none came within the deadline."""
    assert running.stdout
    deadline = threading.Timer(deadline_s, running.kill)
    deadline.start()
    try:
        return running.stdout.readline()
    finally:
        deadline.cancel()


def digest(file: Path) -> str:
    """A name for what is in a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]

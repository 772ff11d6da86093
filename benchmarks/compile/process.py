"""Processes in an environment of their own that compile what they read, for devices that are described."""

import contextlib
import hashlib
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from apps.common.settings import inherited_environment

ROOT = Path(__file__).resolve().parents[2]
VARIABLES = {
    "JAX_PLATFORMS": "cpu",  # else jax searches for a TPU
    "TPU_SKIP_MDS_QUERY": "1",  # and asks Google's metadata server, tpu-inference without a deadline
    "TPU_ACCELERATOR_TYPE": "v6e-16",  # these three only keep libtpu from warning: the devices are described
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else a second process that compiles fails on /tmp/libtpu_lockfile
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


@contextlib.contextmanager
def process(python: Path, module: str, log: IO[str], variables: Mapping[str, str]) -> "Iterator[subprocess.Popen[str]]":
    """A process, killed at the end of the block."""
    running = subprocess.Popen(
        [str(python), "-m", module],
        cwd=ROOT,
        env={**inherited_environment(), **VARIABLES, **variables, "PYTHONPATH": str(ROOT)},
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

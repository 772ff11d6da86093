"""A model made on this machine once and kept in the user's cache: beside its entry first, so a killed run leaves none."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil

from apps.common.settings import CACHE, make_directory


def make_beside(target: Path, make: Callable[[Path], None]) -> None:
    """Have `make` write the folder `model` of a work directory, and move that into the place of `target`.

    Raises:
        UserError: the cache cannot be written.
    """
    make_directory(target.parent, CACHE)
    _remove_leftovers(target)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.{os.getpid()}.", dir=target.parent))
    try:
        make(work)
        shutil.rmtree(target, ignore_errors=True)
        (work / "model").replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _remove_leftovers(target: Path) -> None:
    """Remove the work directories of runs whose process is gone."""
    for path in target.parent.glob(f".{target.name}.*"):
        pid = path.name.removeprefix(f".{target.name}.").split(".")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(path, ignore_errors=True)

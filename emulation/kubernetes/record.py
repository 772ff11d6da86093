"""What a running control plane leaves on disk so that another command finds it. There is one per user (and XDG_STATE_HOME)."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from apps.common.errors import UserError
from apps.common.settings import STATE, make_directory, state_root


@dataclass(frozen=True)
class PlaneRecord:
    """`pid` is the supervisor's, `port` the API server's."""

    directory: str
    pid: int
    port: int

    @property
    def kubeconfig(self) -> Path:
        return Path(self.directory) / "admin.kubeconfig"


def read() -> PlaneRecord | None:
    """The control plane that runs; None if there is none."""
    try:
        plane = PlaneRecord(**json.loads(_path().read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return plane if _lives(plane) else None


def write(plane: PlaneRecord) -> None:
    temporary = _path().with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(plane)))
    temporary.replace(_path())


def remove() -> None:
    _path().unlink(missing_ok=True)


@contextmanager
def exclusive() -> Iterator[None]:
    """Raises `UserError` if another command is starting or stopping the control plane."""
    with _path().with_suffix(".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("another command is starting or stopping the control plane: wait for it") from None
        yield


def _lives(plane: PlaneRecord) -> bool:
    try:
        return plane.directory in psutil.Process(plane.pid).cmdline()
    except psutil.Error:
        return False


def _path() -> Path:
    return make_directory(state_root(), STATE) / "control-plane.json"

"""Record of a running local stack on disk, so that another command finds it: its ports, its session, its model.

One record per API port, and a lock that is held while a stack is being started or stopped.
"""

import fcntl
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from apps.common.errors import UserError
from apps.common.settings import STATE, make_directory, state_root


@dataclass(frozen=True)
class StackRecord:
    """`session_id` is the operating system's session of the head, `hosts` holds that of each emulated host by its name."""

    session_id: int
    port: int
    dashboard_port: int
    model_id: str
    model_source: str
    classic: bool
    temp_dir: str
    first_port: int
    """First port of the head's own block, which is that of Ray's control store."""
    hosts: dict[str, int] = field(default_factory=dict)
    redis: str | None = None
    """HOST:PORT of the Redis with the head's state."""
    started_with: dict[str, str | None] = field(default_factory=dict)
    """What a second start must have in common."""
    ready: bool = False
    """Whether it was started to the end."""
    python: str = sys.executable
    """The Python that all of it runs in."""

    @property
    def session_ids(self) -> list[int]:
        return [self.session_id, *self.hosts.values()]

    @staticmethod
    def own_key_in(temp_dir: Path) -> Path:
        """File of the own key of a stack that requires keys."""
        return temp_dir / "own.key"

    def own_key(self) -> str | None:
        """The key for this stack's own test requests; None where none is required."""
        file = self.own_key_in(Path(self.temp_dir))
        return file.read_text().strip() if file.is_file() else None

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def chat_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/chat/"

    @property
    def dashboard_url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"


def read_record(port: int) -> StackRecord | None:
    """The record of the stack on that port; None if there is none, or if it is unreadable."""
    try:
        return StackRecord(**json.loads(_path(port).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def all_records() -> list[StackRecord]:
    """The records of every stack that was started and not stopped, whether its processes run or not."""
    ports = [int(path.stem) for path in _directory().glob("*.json") if path.stem.isdigit()]
    return [record for port in sorted(ports) if (record := read_record(port))]


def write_record(record: StackRecord) -> None:
    temporary = _path(record.port).with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(record), indent=2))
    temporary.replace(_path(record.port))


def add_host(port: int, name: str, session_id: int) -> None:
    """Record the session of an emulated host that was just started."""
    _change(port, lambda stack: replace(stack, hosts={**stack.hosts, name: session_id}))


def set_head(port: int, session_id: int) -> None:
    """Record the session of a head that was started again."""
    _change(port, lambda stack: replace(stack, session_id=session_id))


def set_ready(port: int) -> None:
    """Record that the stack was started to the end."""
    _change(port, lambda stack: replace(stack, ready=True))


def _change(port: int, change: Callable[[StackRecord], StackRecord]) -> None:
    with (_directory() / f"{port}.hosts.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        stack = read_record(port)
        if stack is None:
            raise UserError(f"the stack on port {port} is gone")
        write_record(change(stack))


def remove_record(port: int) -> None:
    _path(port).unlink(missing_ok=True)


@contextmanager
def exclusive(port: int) -> Iterator[None]:
    """Hold the port's lock. Raises `UserError` if another command is starting or stopping the same stack."""
    with (_directory() / f"{port}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another command is starting or stopping the stack on port {port}: wait for it") from None
        yield


def _directory() -> Path:
    return make_directory(state_root() / "local", STATE)


def _path(port: int) -> Path:
    return _directory() / f"{port}.json"

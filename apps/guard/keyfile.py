"""The keys file on disk: read, changed by one command at a time, and watched by the servers that use it."""

import fcntl
import logging
import os
import secrets
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from apps.common.errors import OperationError, UserError
from apps.guard.keys import Entry, KeyTable, join_key, read_table, scrypt, write_table

logger = logging.getLogger("ray.serve")
_MAX_BYTES = 64 * 1024 * 1024


def read_keys(path: Path) -> KeyTable:
    """The keys of a file. Raises `UserError` if it cannot be read or is not a keys file."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(
                f"{path}: is larger than {_MAX_BYTES} bytes, so it is not a keys file: make one with scripts/keys.py"
            )
        return read_table(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: the keys cannot be read ({error.strerror}): make them with scripts/keys.py") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a keys file: make one with scripts/keys.py") from None
    except UserError as error:
        raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from None


def change_keys(path: Path, change: Callable[[KeyTable], KeyTable]) -> None:
    """Change a keys file, or make one: whole or not at all, readable by its owner alone; other commands wait meanwhile.

    Raises:
        UserError: as `read_keys`, or what `change` raises.
        OperationError: the file cannot be written.
    """
    path = path.resolve()  # of a link, the file it points to is replaced
    try:
        lock = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OperationError(f"{path}: cannot be changed ({error.strerror})") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = read_keys(path) if path.exists() else KeyTable({})
        _replace(path, write_table(change(before)))
    finally:
        os.close(lock)


def write_key(path: Path, text: str) -> None:
    """Write a key's text into a new file, readable by its owner alone: whole or not at all.

    Raises:
        UserError: the file exists already.
        OperationError: it cannot be written.
    """
    try:
        temporary = _temporary(path, text + "\n")
    except OSError as error:
        raise OperationError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        os.link(temporary, path)  # unlike a move it replaces nothing, whoever was faster
    except FileExistsError:
        raise UserError(f"{path} already exists: remove it, or give another file") from None
    except OSError as error:
        raise OperationError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        temporary.unlink()


def make_key(settings: dict[str, object], now: datetime) -> tuple[str, str, Entry]:
    """(the key's text, its id, its entry). The text is not kept anywhere."""
    id, secret, salt = secrets.token_hex(6), secrets.token_hex(24).encode(), secrets.token_bytes(16)
    entry = Entry.model_validate({**settings, "salt": salt.hex(), "hash": scrypt(secret, salt).hex(), "created": now})
    return join_key(id, secret), id, entry


def utc_now() -> datetime:
    """The current time to the second, as the file keeps it."""
    return datetime.now(UTC).replace(microsecond=0)


def _replace(path: Path, text: str) -> None:
    try:
        temporary = _temporary(path, text)
        try:
            os.replace(temporary, path)
        except OSError:
            temporary.unlink()
            raise
    except OSError as error:
        raise OperationError(f"{path}: cannot be written ({error.strerror}); the keys are as they were") from None


def _temporary(path: Path, text: str) -> Path:
    """A new file beside `path` with that text, safe on the disk. Raises `OSError`, and leaves nothing then."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # made with mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        Path(name).unlink()
        raise
    return Path(name)


@dataclass(frozen=True)
class _Seen:
    """What tells one state of a file from another. Kubernetes changes a secret by turning a link: another inode."""

    inode: int
    changed_ns: int
    size: int

    @classmethod
    def of(cls, path: Path) -> "_Seen | None":
        try:
            status = path.stat()
        except OSError:
            return None
        return cls(status.st_ino, status.st_mtime_ns, status.st_size)


class WatchedKeys:
    """Keys files that a server uses, as one table. What cannot be read later leaves that file's keys as they were.

    Raises:
        UserError: on construction, as `read_keys`, or the same id is in two files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._seen = {path: _Seen.of(path) for path in paths}
        self._tables = {path: read_keys(path) for path in paths}
        self.table = self._joined()

    def refresh(self) -> bool:
        """Read again what has changed; True if there are other keys now. Takes time: not for an event loop."""
        changed = [path for path, seen in self._seen.items() if _Seen.of(path) != seen]
        if not changed:
            return False
        before = self._tables
        try:
            for path in changed:
                self._seen[path] = _Seen.of(path)
                self._tables = {**self._tables, path: read_keys(path)}
            self.table = self._joined()
        except UserError as error:
            self._tables = before
            logger.error("guard: %s; the keys that were read before stay valid", error)
            return False
        logger.info("guard: %d keys are known", len(self.table.entries))
        return True

    def _joined(self) -> KeyTable:
        joined = KeyTable({id: entry for table in self._tables.values() for id, entry in table.entries.items()})
        if len(joined.entries) < sum(len(table.entries) for table in self._tables.values()):
            raise UserError(f"{', '.join(map(str, self._tables))}: a key's id is in two of them: remove one")
        return joined

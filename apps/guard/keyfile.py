"""The keys file on disk: read, changed by one command at a time, and watched by the servers that use it."""

import fcntl
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from apps.common.errors import OperationError, UserError
from apps.guard.keys import Entry, Keys, join_key, keys_text, parse_keys, scrypt

logger = logging.getLogger("ray.serve")
_MAX_BYTES = 64 * 1024 * 1024


def read_keys(path: Path) -> Keys:
    """The keys of a file. Raises `UserError` if it cannot be read or is not a keys file."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"is larger than {_MAX_BYTES} bytes, so it is not a keys file: make one with scripts/keys.py")
        return parse_keys(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: the keys cannot be read ({error.strerror}): make them with scripts/keys.py") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


@contextmanager
def change_keys(path: Path) -> Iterator[Keys]:
    """Change a keys file, or make one: whole or not at all, readable by its owner alone; other commands wait meanwhile.

    Raises:
        UserError: as `read_keys`.
        OperationError: the file cannot be written.
    """
    path = path.resolve()  # of a link, the file it points to is replaced
    try:
        lock = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OperationError(f"{path}: cannot be changed ({error.strerror})") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = read_keys(path) if path.exists() else {}
        yield keys
        with _new_file(path, keys_text(keys)) as new:
            new.replace(path)
    finally:
        os.close(lock)


def write_key(path: Path, text: str) -> None:
    """Write a key's text into a new file, readable by its owner alone: whole or not at all.

    Raises:
        UserError: the file exists already.
        OperationError: it cannot be written.
    """
    with _new_file(path, text + "\n") as new:
        try:
            path.hardlink_to(new)  # unlike a move it replaces nothing, whoever was faster
        except FileExistsError:
            raise UserError(f"{path} already exists: remove it, or give another file") from None


def make_key(settings: dict[str, object], now: datetime) -> tuple[str, str, Entry]:
    """(the key's text, its id, its entry). The text is not kept anywhere."""
    id, secret, salt = secrets.token_hex(6), secrets.token_hex(24).encode(), secrets.token_bytes(16)
    entry = Entry.model_validate({**settings, "salt": salt.hex(), "hash": scrypt(secret, salt).hex(), "created": now})
    return join_key(id, secret), id, entry


def utc_now() -> datetime:
    """The current time to the second, as the file keeps it."""
    return datetime.now(UTC).replace(microsecond=0)


@contextmanager
def _new_file(path: Path, text: str) -> Iterator[Path]:
    """A file beside `path` with that text, safe on the disk, to move or link there. Nothing else is left of it."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # made with mode 0600
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise OperationError(f"{path}: cannot be written ({error.strerror}); the keys are as they were") from None


def _state(path: Path) -> tuple[int, int, int] | None:
    """What tells one state of a file from another. Kubernetes changes a secret by turning a link: another inode."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


_STAY_VALID = "guard: %s; the keys that were read before stay valid"


class WatchedKeys:
    """Keys files that a server uses, together in `entries`. What cannot be read later leaves that file's keys as they were.

    Raises:
        UserError: on construction, as `read_keys`, or the same id is in two files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._states = {path: _state(path) for path in paths}
        self._files = {path: read_keys(path) for path in paths}
        self.entries = _joined(self._files)

    def refresh(self) -> bool:
        """Read again what has changed; True if there are other keys now. Takes time: not for an event loop."""
        changed = [path for path, state in self._states.items() if _state(path) != state]
        if not any([self._read(path) for path in changed]):
            return False
        try:
            self.entries = _joined(self._files)
        except UserError as error:
            logger.error(_STAY_VALID, error)
            return False
        logger.info("guard: %d keys are known", len(self.entries))
        return True

    def _read(self, path: Path) -> bool:
        self._states[path] = _state(path)
        try:
            self._files[path] = read_keys(path)
        except UserError as error:
            logger.error(_STAY_VALID, error)
            return False
        return True


def _joined(files: dict[Path, Keys]) -> Keys:
    joined = {id: entry for keys in files.values() for id, entry in keys.items()}
    if len(joined) < sum(map(len, files.values())):
        raise UserError(f"{', '.join(map(str, files))}: a key's id is in two of them: remove one")
    return joined

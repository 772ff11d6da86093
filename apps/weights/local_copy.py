"""One host's copy of a staged model: what of it is there, writing the rest part by part, and the receipt when it is whole.

Files grow beside their place, under `.partial/`, and are moved when every part is there. Which parts a killed run has left is
seen by their checksums, so no journal can be wrong. One process at a time works on a directory.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from apps.errors import ContentError, OperationError, UserError
from apps.weights import receipt
from apps.weights.crc32c import Buffer, crc32c
from apps.weights.describe import receipt_for
from apps.weights.manifest import Manifest, ManifestFile, Part
from apps.weights.retry import PassingError

_PARTIAL = ".partial"
_LOCK_S = 3600.0  # longer than a model takes
_LOCK_POLL_S = 0.1
_SPARE_BYTES = 256 * 1024**2  # a disk filled to the last byte harms others


class WrongBytesError(PassingError):
    """Bytes that are not what the manifest says; on the way, or for good."""


class LocalCopy:
    """A directory that becomes the manifest's model. A context manager: inside, no other process works on it.

    Raises on entry:
        OperationError: the directory cannot be written, or another process does not leave it within `_LOCK_S`.
    """

    def __init__(self, wanted: Manifest, source: str, directory: Path) -> None:
        self.manifest = wanted
        self.directory = directory
        self._source = source
        self._left: dict[str, int] = {}
        self._lock = threading.Lock()
        self._locked: int | None = None

    def __enter__(self) -> "LocalCopy":
        with self._explained():
            (self.directory / _PARTIAL).mkdir(parents=True, exist_ok=True)
            self._locked = os.open(self.directory / _PARTIAL / "lock", os.O_CREAT | os.O_RDWR, 0o600)
            self._lock_directory(self._locked)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None

    def is_whole(self) -> bool:
        """True when nothing is missing, by the receipt."""
        return receipt.is_copy_of(self.directory, self.manifest.digest)

    def missing(self) -> list[Part]:
        """The parts that are not there yet, in the manifest's order. Reads what an earlier run has left, to check it.

        Raises:
            UserError: the disk has no room for them.
            OperationError: the directory cannot be written.
        """
        with self._explained():
            (self.directory / receipt.RECEIPT_NAME).unlink(missing_ok=True)
            found = [part for file in self.manifest.files for part in self._missing_of(file)]
            self._check_room(sum(part.length for part in found))
        return found

    def write(self, part: Part, pieces: Iterable[Buffer]) -> None:
        """Put a part in its place and compare it; the last one of a file moves the file to its own.

        Raises:
            WrongBytesError: they are not what the manifest says; the part is still missing.
            OperationError: the disk is full, or not writable.
        """
        with self._explained():
            with self._partial(part.file).open("r+b", buffering=0) as file:
                found = _write_all(file.fileno(), pieces, part.start)
            if found != part.crc32c:
                raise WrongBytesError(f"{part}: not what the manifest says")
            with self._lock:
                self._left[part.file] -= 1
                last = self._left[part.file] == 0
            if last:
                self._move(part.file)

    def read(self, part: Part) -> Buffer:
        """A part that is there."""
        path = self.directory / part.file
        buffer = np.empty(part.length, np.uint8)
        try:
            with (path if path.exists() else self._partial(part.file)).open("rb", buffering=0) as file:
                file.seek(part.start)
                count = file.readinto(buffer.data)
        except OSError as error:
            raise OperationError(f"{part} cannot be read from {self.directory}: {error}") from error
        if count != part.length or crc32c(buffer) != part.crc32c:
            raise ContentError(f"{part} in {self.directory} is not what its manifest says")
        return buffer

    def finish(self) -> receipt.Receipt:
        """Write the receipt. Files that are not the manifest's are left alone."""
        with self._explained():
            source = f"{self._source} ({self.manifest.source} at {self.manifest.revision})"
            found = receipt_for(self.directory, self.manifest, source)
            receipt.write_receipt(self.directory, found)
            for path in (self.directory / _PARTIAL).rglob("*"):
                if path.is_file() and path.name != "lock":
                    path.unlink()  # of files that this manifest does not have
        return found

    def _lock_directory(self, descriptor: int) -> None:
        """A lock that ends with the process, however that ends."""
        end = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    raise OperationError(f"{self.directory}: another process works on it, for {_LOCK_S:.0f} s now") from None
            time.sleep(_LOCK_POLL_S)

    def _missing_of(self, file: ManifestFile) -> list[Part]:
        final, partial = self.directory / file.name, self._partial(file.name)
        parts = self.manifest.parts(file.name)
        for path in (final, partial):
            path.parent.mkdir(parents=True, exist_ok=True)
        if final.is_file() and final.stat().st_size == file.size_bytes and not partial.exists():
            if not (bad := _bad_parts(final, parts)):
                self._left[file.name] = 0
                return []
            final.replace(partial)
        elif final.exists():
            final.unlink()
            bad = parts
        else:
            bad = _bad_parts(partial, parts) if partial.exists() else parts
        with partial.open("ab") as opened:
            opened.truncate(file.size_bytes)
        self._left[file.name] = len(bad)
        if not bad:
            self._move(file.name)
        return bad

    def _move(self, name: str) -> None:
        path = self._partial(name)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.replace(self.directory / name)

    def _partial(self, name: str) -> Path:
        return self.directory / _PARTIAL / f"{name}.part"

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.directory).free
        if needed and free < needed + _SPARE_BYTES:
            raise UserError(
                f"{self.directory}: {free / 1024**3:.1f} GiB free, and {needed / 1024**3:.1f} GiB are still missing: "
                "make room, or choose a directory on a larger disk"
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENOSPC:
                message = f"{self.directory}: the disk is full; what is there stays, make room and start again"
            elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                message = f"{self.directory} cannot be written: {error.strerror} (user {os.getuid()})"
            else:
                message = f"{self.directory}: {error}"
            raise OperationError(message) from error


def _bad_parts(path: Path, parts: list[Part]) -> list[Part]:
    """Parts whose bytes in the file are not right, or not there."""
    bad = []
    buffer = np.empty(max((part.length for part in parts), default=0), np.uint8)
    with path.open("rb", buffering=0) as file:
        for part in parts:
            if not _has_data(file.fileno(), part):
                bad.append(part)
                continue
            file.seek(part.start)
            count = file.readinto(buffer[: part.length].data)
            if count != part.length or crc32c(buffer[: part.length]) != part.crc32c:
                bad.append(part)
    return bad


def _has_data(descriptor: int, part: Part) -> bool:
    """False where the file has a hole for the whole part: nothing was ever written there."""
    try:
        return os.lseek(descriptor, part.start, os.SEEK_DATA) < part.start + part.length
    except OSError:  # no data from there to the end
        return False


def _write_all(descriptor: int, pieces: Iterable[Buffer], start: int) -> str:
    """Write the pieces one after the other; their checksum."""
    checksum = "00000000"
    for piece in pieces:
        checksum = crc32c(piece, checksum)
        view = piece.data
        while view:
            count = os.pwrite(descriptor, view, start)
            view, start = view[count:], start + count
    return checksum

"""One host's copy of a staged model: find the parts that are missing, write them, and leave a receipt when it is whole.

Files grow beside their place, in `.partial/`, and are moved when every part is there and the whole has the manifest's SHA-256.
Checksums show which parts a killed run has left, so no journal can be wrong. One process at a time works on a directory.
Nothing is written through a symbolic link in it.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from apps.common.errors import ContentError, OperationError, UserError
from apps.weights import receipt
from apps.weights.checksums import Buffer, FileHash, crc32c
from apps.weights.local_manifest import receipt_for
from apps.weights.manifest import PARTIAL_NAME, Manifest, ManifestFile, Part
from apps.weights.retry import TransientError

_LOCK_S = 3600.0  # longer than a model takes
_LOCK_POLL_S = 0.1
_SPARE_BYTES = 256 * 1024**2  # a disk that is filled to the last byte harms others


class WrongBytesError(TransientError):
    """Bytes that do not match the manifest, on the way or for good."""


class LocalCopy:
    """A directory that becomes the manifest's model. Context manager: inside, no other process works on the directory.

    Entering raises `OperationError` where the directory cannot be written, or another process keeps it for `_LOCK_S`.
    """

    def __init__(self, wanted: Manifest, source: str, directory: Path) -> None:
        self.manifest = wanted
        self.directory = directory
        self._source = source
        self._hashes: dict[str, FileHash] = {}
        self._wanted = {file.name: file.sha256 for file in wanted.files}
        self._partial: int | None = None
        """The folder in which files grow, opened and locked."""

    def __enter__(self) -> "LocalCopy":
        with self._explained():
            folder = self.directory / PARTIAL_NAME
            folder.mkdir(parents=True, exist_ok=True)
            self._partial = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._lock_directory(self._partial)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._partial is not None:
            os.close(self._partial)
            self._partial = None

    def is_whole(self) -> bool:
        """True when nothing is missing, by the receipt."""
        return receipt.is_whole(self.directory, self.manifest.digest)

    def missing(self) -> list[Part]:
        """The missing parts, in the manifest's order. Reads and checks what an earlier run has left.

        Raises:
            UserError: the disk has too little room for them.
            OperationError: the directory cannot be written.
        """
        with self._explained():
            (self.directory / receipt.RECEIPT_NAME).unlink(missing_ok=True)
            parts = [part for file in self.manifest.files for part in self._missing_of(file)]
            self._check_room(sum(part.length for part in parts))
        return parts

    def write(self, part: Part, pieces: Iterable[Buffer]) -> None:
        """Write a part and compare it with the manifest; after the last one of a file, move the file to its place.

        Raises:
            WrongBytesError: the bytes do not match the manifest; the part is still missing.
            ContentError: every part is right but the whole is not (SHA-256); the partial file is removed.
            OperationError: the disk is full, or not writable.
        """
        with self._explained():
            with self._opened(part.file, os.O_RDWR) as descriptor:
                checksum = _write_all(descriptor, pieces, part.start)
            if checksum != part.crc32c:
                raise WrongBytesError(f"{part}: does not match the manifest")
            self._follow(part.file, part)

    def read(self, part: Part) -> Buffer:
        """Read a part that is there."""
        path = self.directory / part.file
        buffer = np.empty(part.length, np.uint8)
        try:
            with _opened(path) if path.exists() else self._opened(part.file, os.O_RDONLY) as descriptor:
                count = os.preadv(descriptor, [buffer.data], part.start)
        except OSError as error:
            raise OperationError(f"{part} cannot be read from {self.directory}: {error}") from error
        if count != part.length or crc32c(buffer) != part.crc32c:
            raise ContentError(f"{part} in {self.directory} does not match its manifest")
        return buffer

    def finish(self) -> receipt.Receipt:
        """Write the receipt. Files that the manifest does not list are left alone."""
        with self._explained():
            source = f"{self._source} ({self.manifest.source} at {self.manifest.revision})"
            finished = receipt_for(self.directory, self.manifest, source)
            receipt.write_receipt(self.directory, finished)
            for path in (self.directory / PARTIAL_NAME).iterdir():
                if not path.is_dir() or path.is_symlink():
                    path.unlink()  # parts of files that this manifest does not list
        return finished

    def _lock_directory(self, descriptor: int) -> None:
        """Take a lock that ends with the process, however that exits."""
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
        final = self.directory / file.name
        self._make_folders(final)
        if final.is_symlink() or (final.exists() and final.stat().st_size != file.size_bytes):
            final.unlink()
        elif final.exists() and not (self.directory / PARTIAL_NAME / _partial_name(file.name)).exists():
            os.rename(final, _partial_name(file.name), dst_dir_fd=self._partial)
        parts = self.manifest.parts(file.name)
        with self._opened(file.name, os.O_RDWR | os.O_CREAT) as descriptor:
            os.ftruncate(descriptor, file.size_bytes)
            bad = _bad_parts(descriptor, parts)
        self._hashes[file.name] = FileHash(lambda: self._opened(file.name, os.O_RDONLY), parts, bad)
        if not bad:
            self._follow(file.name)
        return bad

    def _make_folders(self, final: Path) -> None:
        final.parent.mkdir(parents=True, exist_ok=True)
        for folder in final.parents:
            if folder == self.directory:
                return
            if folder.is_symlink():
                raise OSError(errno.ELOOP, "is a symbolic link", str(folder))

    def _follow(self, name: str, written: Part | None = None) -> None:
        """Hash what has become readable; at the end of a file, compare it and move it to its place."""
        digest = self._hashes[name].follow(written)
        if digest is None:
            return
        if digest != self._wanted[name]:
            os.unlink(_partial_name(name), dir_fd=self._partial)
            raise ContentError(
                f"{name} from {self._source}: its parts match the manifest, but the whole does not (SHA-256 {digest}): "
                "stage the model again"
            )
        with self._opened(name, os.O_RDONLY) as descriptor:
            os.fsync(descriptor)
        os.rename(_partial_name(name), self.directory / name, src_dir_fd=self._partial)

    def _opened(self, name: str, flags: int) -> contextlib.AbstractContextManager[int]:
        return _opened(_partial_name(name), flags, self._partial)

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.directory).free
        if needed and free < needed + _SPARE_BYTES:
            raise UserError(
                f"{self.directory}: {free / 1024**3:.1f} GiB free, but {needed / 1024**3:.1f} GiB are still missing: "
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
            elif error.errno in (errno.ELOOP, errno.ENOTDIR):
                message = (
                    f"{self.directory}: {error.filename} is a symbolic link or not a folder; nothing was written: remove it"
                )
            else:
                message = f"{self.directory}: {error}"
            raise OperationError(message) from error


def _partial_name(name: str) -> str:
    """Plain name of a growing file, so that all growing files are in one folder."""
    return f"{hashlib.sha256(name.encode()).hexdigest()}.part"


@contextlib.contextmanager
def _opened(path: str | Path, flags: int = os.O_RDONLY, folder: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _bad_parts(descriptor: int, parts: list[Part]) -> list[Part]:
    """Parts whose bytes in the file are wrong or missing."""
    bad = []
    buffer = np.empty(max((part.length for part in parts), default=0), np.uint8)
    for part in parts:
        data = buffer[: part.length]
        count = os.preadv(descriptor, [data.data], part.start) if _has_data(descriptor, part) else 0
        if count != part.length or crc32c(data) != part.crc32c:
            bad.append(part)
    return bad


def _has_data(descriptor: int, part: Part) -> bool:
    """False where the file has a hole for the whole part: nothing was ever written there."""
    try:
        return os.lseek(descriptor, part.start, os.SEEK_DATA) < part.start + part.length
    except OSError:  # no data from there to the end
        return False


def _write_all(descriptor: int, pieces: Iterable[Buffer], start: int) -> str:
    """Write the pieces one after the other. Returns their checksum."""
    checksum = "00000000"
    for piece in pieces:
        checksum = crc32c(piece, checksum)
        view = piece.data
        while view:
            count = os.pwrite(descriptor, view, start)
            view, start = view[count:], start + count
    return checksum

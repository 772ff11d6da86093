"""Checksums at the speed of memory: CRC32C, which Cloud Storage keeps for every object, and SHA-256 of a growing file."""

import base64
import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import google_crc32c
import numpy as np
import numpy.typing as npt

from apps.weights.manifest import Part

Buffer = npt.NDArray[np.uint8]


def crc32c(data: bytes | Buffer, before: str = "00000000") -> str:
    """CRC32C in hex of `data`, or of bytes with the checksum `before` followed by `data`."""
    return f"{google_crc32c.extend(int(before, 16), data):08x}"


def from_base64(text: str) -> str:
    """CRC32C in hex from Cloud Storage's form (base64 of four bytes)."""
    return base64.b64decode(text).hex()


PIECE_BYTES = 1024**2  # fits the cache of a core


class FileHash:
    """SHA-256 of a file whose parts several threads write in any order: it is read behind them, in the file's order.

    One thread at a time reads, and none waits for it. What was just written comes from memory. `opened` opens the file; the
    parts in `missing` are not written yet.
    """

    def __init__(self, opened: Callable[[], AbstractContextManager[int]], parts: list[Part], missing: list[Part]) -> None:
        self._opened = opened
        self._parts = parts
        self._missing = {part.start for part in missing}
        self._next = 0
        self._busy = False
        self._lock = threading.Lock()
        self._digest = hashlib.sha256()

    def follow(self, written: Part | None = None) -> str | None:
        """Hash on after `written` has been written. Returns the digest in hex, once, to the thread that reads the last part.

        Raises `OSError` where the file cannot be read.
        """
        with self._lock:
            if written:
                self._missing.discard(written.start)
            if self._busy:
                return None
            self._busy = True
        with self._opened() as descriptor:
            return self._digest.hexdigest() if self._read_on(descriptor) else None

    def _read_on(self, descriptor: int) -> bool:
        """Read until a part is missing; True at the file's end, after which no thread follows any more."""
        while True:
            with self._lock:
                if self._next == len(self._parts):
                    return True
                part = self._parts[self._next]
                if part.start in self._missing:
                    self._busy = False
                    return False
            self._read(descriptor, part)
            self._next += 1

    def _read(self, descriptor: int, part: Part) -> None:
        at, end = part.start, part.start + part.length
        while at < end:
            data = os.pread(descriptor, min(PIECE_BYTES, end - at), at)
            if not data:
                raise OSError(f"{part} was written but is not there")
            self._digest.update(data)
            at += len(data)

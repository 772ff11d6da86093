"""The SHA-256 of a file whose parts are written in any order, by several threads: read in the file's order behind them.

One thread at a time follows, and none waits for it. What was just written is read from memory.
"""

import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from apps.weights.manifest import Part

_PIECE_BYTES = 1024**2


class FileHash:
    """Of one file. `opened` opens it; the parts in `missing` are not written yet."""

    def __init__(self, opened: Callable[[], AbstractContextManager[int]], parts: list[Part], missing: list[Part]) -> None:
        self._opened = opened
        self._parts = parts
        self._missing = {part.start for part in missing}
        self._next = 0
        self._busy = False
        self._lock = threading.Lock()
        self._digest = hashlib.sha256()

    def follow(self, written: Part | None = None) -> str | None:
        """Go on after `written` has been written; the digest in hex, once, to whoever reads the last part.

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
        """Read until a part is missing; True at the file's end, after which nobody follows any more."""
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
            data = os.pread(descriptor, min(_PIECE_BYTES, end - at), at)
            if not data:
                raise OSError(f"{part} was written and is not there")
            self._digest.update(data)
            at += len(data)

"""One line of JSON for each request: who asked what of which route, what it cost and how it ended. No prompt, answer or key.

Lines are made in the request's path and written by a thread, into a file that is rotated: a thread that did more would hold
the interpreter, and every stream would wait for it. Requests without a right key have a file of their own, a few lines a second
and a count of the rest, so that nobody without a key can rotate the lines of keys away.
"""

import json
import logging
import logging.handlers
import os
import queue
import threading
import time
from pathlib import Path
from typing import Any

from apps.common.errors import UserError

logger = logging.getLogger("ray.serve")
FILE_BYTES, _OLD_FILES = 64 * 1024 * 1024, 4
_KEYLESS_PREFIX = "no_key_"
_KEYLESS_FILE_BYTES, _KEYLESS_OLD_FILES, _KEYLESS_PER_SECOND = 8 * 1024 * 1024, 1, 10
_QUEUED, _GATHER_S = 10_000, 0.05
_encoded = json.JSONEncoder(separators=(",", ":")).encode


class AuditLog:
    """One process's audit: requests with a key at `path`, those without one in a file beside it."""

    def __init__(self, path: Path) -> None:
        self._keys = _LineFile(path, FILE_BYTES, _OLD_FILES)
        self._keyless = _LineFile(keyless_path(path), _KEYLESS_FILE_BYTES, _KEYLESS_OLD_FILES)
        self._second, self._in_second, self._left_out = 0, 0, 0

    @property
    def lost(self) -> int:
        """Lines of keys that could not be written."""
        return self._keys.lost

    def write(self, record: dict[str, Any]) -> None:
        """Write without waiting: what a stuck disk keeps from being written is counted and logged."""
        self._keys.write(record)

    def write_keyless(self, record: dict[str, Any]) -> None:
        """Write a few a second; `left_out` in the next line counts the others."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._in_second = second, 0
        if self._in_second >= _KEYLESS_PER_SECOND:
            self._left_out += 1
            return
        self._in_second += 1
        self._keyless.write({**record, "left_out": self._left_out} if self._left_out else record)
        self._left_out = 0

    def close(self) -> None:
        """Write what is left, and end."""
        if self._left_out:
            self._keyless.write({"left_out": self._left_out})
        self._keys.close()
        self._keyless.close()


class _LineFile:
    """A file that a thread appends to, with the older ones beside it."""

    def __init__(self, path: Path, file_bytes: int, old_files: int) -> None:
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.lost = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(0o600)
            self._file = logging.handlers.RotatingFileHandler(
                path, maxBytes=file_bytes, backupCount=old_files, encoding="utf-8"
            )
        except OSError as error:
            raise UserError(f"{path}: the guard's audit file cannot be written ({error.strerror})") from None
        self._file.handleError = lambda _: self._failed()  # type: ignore[assignment,method-assign]
        self._thread = threading.Thread(target=self._write_all, name="guard-audit", daemon=True)
        self._thread.start()

    def write(self, record: dict[str, Any]) -> None:
        if self._lines.qsize() < _QUEUED:
            self._lines.put(_encoded(record))
        else:
            self.lost += 1

    def close(self) -> None:
        """Write what is left, and end."""
        self._lines.put(None)
        self._thread.join(10)
        self._file.close()

    def _write_all(self) -> None:
        ended = False
        while not ended:
            lines = [self._lines.get()]
            time.sleep(_GATHER_S)  # many lines in one write: this thread takes its time from the requests
            lines += [self._lines.get() for _ in range(self._lines.qsize())]  # nobody else takes any
            ended = None in lines
            text = "\n".join(line for line in lines if line)
            if text:
                self._file.emit(logging.LogRecord("audit", logging.INFO, "", 0, text, None, None))

    def _failed(self) -> None:
        self.lost += 1
        if self.lost in (1, 1000, 1_000_000):
            logger.exception("guard: the audit file cannot be written; %d lines are lost", self.lost)


def keyless_path(path: Path) -> Path:
    """Where the requests without a right key are, beside the audit."""
    return path.with_name(_KEYLESS_PREFIX + path.name)


def audit_path(wanted: str | None) -> Path:
    """The file that the settings name, or one beside this replica's own log; in the working directory if it has none."""
    if wanted:
        return Path(wanted)
    for handler in logging.getLogger("ray.serve").handlers:
        target = getattr(handler, "target", handler)  # Ray wraps its file in a buffer
        if isinstance(target, logging.FileHandler):
            log = Path(target.baseFilename)
            return log.with_name(f"guard_audit_{log.stem}.jsonl")
    return Path.cwd() / f"guard_audit_{os.getpid()}.jsonl"

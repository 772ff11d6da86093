"""The output of a batch: a draft that only grows, from which the finished files are made in the order of the input."""

import errno
import fcntl
import io
import os
from collections import Counter
from pathlib import Path
from typing import Any

from apps.batch.lines import is_ok, number_in, parse_object, tokens_in
from apps.batch.source import is_remote, local_path
from apps.common.errors import OperationError, UserError
from apps.weights.store import Store


class Output:
    """Files of one OUTPUT. In a bucket they are copied to `folder`; a draft goes up in parts, the finished ones at the end."""

    def __init__(self, address: str, folder: Path, batch: str) -> None:
        parent, _, name = address.rpartition("/")
        self._store = Store(parent) if is_remote(address) else None
        self.path = folder / name if self._store else local_path(address)
        self.errors = self.path.with_name(f"{self.path.stem}.errors{self.path.suffix}")
        self.draft = self.path.with_name(f"{self.path.name}.draft")
        self.done: dict[int, int] = {}
        """Where in the draft the answer to each request begins, by the request's number."""
        self._batch, self._address = batch, address
        self._file: io.FileIO | None = None
        self._size = self._saved = self._parts = 0
        if not name or (not self._store and self.path.is_dir()):
            raise UserError(f"--to {address}: a folder; give the name of a file, such as {address.rstrip('/')}/answers.jsonl")
        if self._store:
            self._download(self._store)

    def _download(self, store: Store) -> None:
        for path in (self.path, self.errors):
            if store.stat(path.name):
                store.download(path.name, path)
        if parts := sorted(store.find(self.draft.name)):
            self.draft.write_bytes(b"".join(store.read(name) or b"" for name in parts))
            self._saved, self._parts = self.draft.stat().st_size, len(parts)

    def is_finished(self, count: int) -> bool:
        """Whether this batch's answers are all there already. Raises `UserError` if another's are."""
        if not self.path.exists() and (self.draft.exists() or not self.errors.exists()):
            return False
        numbers: set[int] = set()
        for path in (self.path, self.errors):
            if path.exists():
                with path.open("rb") as lines:
                    numbers.update(self._number(path, line) for line in lines)
        if len(numbers) != count:
            raise UserError(f"{self._address}: there already, with {len(numbers)} of {count} answers; give another --to")
        return True

    def read(self) -> None:
        """Find the answers of a draft, if there is one. Raises `UserError` if it is of another input."""
        if self.draft.exists():
            with self.draft.open("rb") as lines:
                for line in lines:
                    if line.endswith(b"\n"):  # else it was half written when the run was killed
                        self.done.setdefault(self._number(self.draft, line), self._size)
                        self._size += len(line)

    def open(self) -> None:
        """Begin a draft, or go on after its last whole line. Raises `UserError` if it is another's, or cannot be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = io.FileIO(self.draft, "ab")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{self.draft}: another run is writing it; wait for its end, or stop it") from None
        except OSError as error:
            raise UserError(f"--to {self._address}: {error.strerror}; give a place that you may write to") from error
        self.read()
        self._file.truncate(self._size)
        self.save(first=True)  # shows before anything is sent whether a bucket may be written

    def add(self, number: int, line: bytes) -> None:
        """Keep an answer. Raises `OperationError` if the disk does not take it."""
        assert self._file is not None
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise OperationError(f"{self.draft}: {error.strerror}; make room, and the same command goes on") from error
        self.done[number] = self._size
        self._size += len(line)

    def save(self, *, first: bool = False) -> None:
        """Send to a bucket what has been added since the last time. Runs beside `add`."""
        if self._store and (self._size > self._saved or first):
            with self.draft.open("rb") as file:
                file.seek(self._saved)
                part = file.read(self._size - self._saved)
            self._store.write(f"{self.draft.name}/{self._parts:06}", part)
            self._saved, self._parts = self._saved + len(part), self._parts + 1

    def finish(self) -> None:
        """Make the finished files; OUTPUT comes last and whole, and only then the draft goes. Raises `OperationError`."""
        try:
            self._finish()
        except OSError as error:
            raise OperationError(f"{self.path}: {error.strerror}; the same command goes on") from error

    def _finish(self) -> None:
        answered, failed = (path.with_name(f"{path.name}.new") for path in (self.path, self.errors))
        with self.draft.open("rb") as lines, answered.open("wb") as good, failed.open("wb") as bad:
            for number in sorted(self.done):
                lines.seek(self.done[number])
                line = lines.readline()
                (good if is_ok(parse_object(line)) else bad).write(line)
            for file in (good, bad):
                file.flush()
                os.fsync(file.fileno())
        if failed.stat().st_size:
            self._publish(failed, self.errors)
        failed.unlink(missing_ok=True)
        self._publish(answered, self.path)
        self.remove_draft()

    def summary(self) -> dict[str, Any]:
        """Counts of the finished files, failures by reason; tokens are None where the server counted none."""
        counts = {"requests": 0, "ok": 0, "failed": 0}
        tokens: dict[str, int | None] = {"prompt_tokens": None, "completion_tokens": None}
        failures: Counter[str] = Counter()
        for path, kind in ((self.path, "ok"), (self.errors, "failed")):
            for line in path.open("rb") if path.exists() else ():
                counts["requests"] += 1
                counts[kind] += 1
                answer = parse_object(line)
                response = answer["response"]
                if kind == "failed":
                    failures[f"HTTP {response['status_code']}" if response else answer["error"]["code"]] += 1
                for name in tokens:
                    if (number := tokens_in(response, name)) is not None:
                        tokens[name] = (tokens[name] or 0) + number
        return {**counts, "failures": failures, **tokens}

    def _publish(self, new: Path, path: Path) -> None:
        new.replace(path)
        if self._store:
            self._store.upload(path.name, path)

    def remove_draft(self) -> None:
        self.draft.unlink(missing_ok=True)
        if self._store:
            self._store.remove(self.draft.name)

    def _number(self, path: Path, line: bytes) -> int:
        try:
            return number_in(line, self._batch)
        except ValueError as error:
            raise UserError(f"{path}: has a line that is no answer to this input ({error}); give another --to") from error

"""Show how far a copy is: bars in a terminal, one line a minute in a log, and the same figures for metrics."""

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO

from apps.weights.retry import TransientError

_LINE_EVERY_S = 60.0


class Progress:
    """Counts bytes of several files from several threads. Shows nothing: its subclasses do."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.total_bytes = 0
        self.done_bytes = 0
        self.moved_bytes = 0
        """The part of `done_bytes` that this run has copied; the rest was there."""
        self.retries = 0
        self.started = time.monotonic()

    def begin(self, files: dict[str, int], verb: str) -> None:
        """Start with the names and sizes of the files; `verb` is what happens to them (staged, fetched, checked)."""
        self.total_bytes = sum(files.values())
        self.started = time.monotonic()
        self._show_begin(files, verb)

    def advance(self, name: str, size_bytes: int, *, moved: bool) -> None:
        """Count bytes of a file that are in their place."""
        with self._lock:
            self.done_bytes += size_bytes
            self.moved_bytes += size_bytes if moved else 0
            self._show(name, size_bytes)

    def retried(self, error: TransientError) -> None:  # noqa: ARG002 - a subclass looks at it
        """Count a range that had to be requested again."""
        with self._lock:
            self.retries += 1

    def report(self, text: str) -> None:
        """Print a line beside the bars."""

    def hosts(self, done: dict[str, tuple[int, int]]) -> None:
        """Show (bytes there, bytes in total) of a slice's hosts, by their names; called about once a second."""

    @property
    def rate(self) -> float:
        """Bytes per second that this run has moved so far."""
        return self.moved_bytes / max(1e-9, time.monotonic() - self.started)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._show_end()

    def _show_begin(self, files: dict[str, int], verb: str) -> None: ...

    def _show(self, name: str, size_bytes: int) -> None: ...

    def _show_end(self) -> None: ...


class LogProgress(Progress):
    """Writes a line at the start, one a minute, and one at the end."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write
        self._verb = ""
        self._next_line = time.monotonic() + _LINE_EVERY_S

    def report(self, text: str) -> None:
        self._write(text)

    def hosts(self, done: dict[str, tuple[int, int]]) -> None:
        if self._is_time():
            self._write("weights: " + ", ".join(f"{host} {gib(here)} of {gib(total)}" for host, (here, total) in done.items()))

    def _show_begin(self, files: dict[str, int], verb: str) -> None:
        self._verb = verb
        self._next_line = time.monotonic() + _LINE_EVERY_S
        self._write(f"{len(files)} files, {gib(self.total_bytes)} to be {verb}")

    def _show(self, name: str, size_bytes: int) -> None:  # noqa: ARG002 - a line is about all files
        if self._is_time():
            left_s = (self.total_bytes - self.done_bytes) / self.rate if self.moved_bytes else None
            left = "" if left_s is None else f", {left_s:.0f} s left"
            self._write(f"{gib(self.done_bytes)} of {gib(self.total_bytes)} {self._verb}, {self.rate / 1e9:.2f} GB/s{left}")

    def _show_end(self) -> None:
        if self.total_bytes and self.done_bytes >= self.total_bytes:
            seconds = time.monotonic() - self.started
            self._write(f"{gib(self.total_bytes)} {self._verb}, {gib(self.moved_bytes)} of it copied in {seconds:.1f} s")

    def _is_time(self) -> bool:
        is_time = time.monotonic() >= self._next_line
        if is_time:
            self._next_line = time.monotonic() + _LINE_EVERY_S
        return is_time


class BarProgress(Progress):
    """Shows a bar for each host, or for each of the largest files and one for all, with the rate and the time left."""

    _MAX_BARS = 12

    def __init__(self) -> None:
        super().__init__()
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as Bars

        sizes = [DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn()]
        self._bars = Bars(TextColumn("{task.description}"), BarColumn(), *sizes, transient=True)
        self._tasks: dict[str, Any] = {}

    def report(self, text: str) -> None:
        self._bars.console.print(text, highlight=False, soft_wrap=True)

    def hosts(self, done: dict[str, tuple[int, int]]) -> None:
        self._bars.start()
        for host, (here, total) in done.items():
            if host not in self._tasks:
                self._tasks[host] = self._bars.add_task(host, total=total)
            self._bars.update(self._tasks[host], completed=here)

    def _show_begin(self, files: dict[str, int], verb: str) -> None:
        largest = sorted(files, key=lambda name: -files[name])[: self._MAX_BARS]
        self._tasks = {name: self._bars.add_task(name, total=files[name]) for name in files if name in largest}
        self._tasks[""] = self._bars.add_task(f"all {len(files)} files {verb}", total=self.total_bytes)
        self._bars.start()

    def _show(self, name: str, size_bytes: int) -> None:
        for key in {name, ""} & set(self._tasks):
            self._bars.advance(self._tasks[key], size_bytes)

    def _show_end(self) -> None:
        self._bars.stop()


def for_stream(stream: TextIO = sys.stderr) -> Progress:
    """Bars on a terminal, else lines."""
    if stream.isatty():
        return BarProgress()
    return LogProgress(lambda text: print(text, file=stream, flush=True))


def gib(size_bytes: float) -> str:
    """A size in readable form: in GiB, small ones in MiB."""
    return f"{size_bytes / 1024**3:.2f} GiB" if size_bytes >= 0.1 * 1024**3 else f"{size_bytes / 1024**2:.1f} MiB"

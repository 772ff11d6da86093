"""Report progress: a live line on a terminal, one line per change elsewhere, with the seconds since the start."""

import time
from types import TracebackType

from rich.console import Console
from rich.status import Status


class Progress:
    """Context manager; `report` may be called as often as needed; with figures that always change, once in `period_s`."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self.period_s = 1.0 if self._console.is_terminal else 10.0
        self._status: Status | None = self._console.status("") if self._console.is_terminal else None
        self._started = time.monotonic()
        self._last = ""

    def report(self, text: str) -> None:
        line = f"{time.monotonic() - self._started:3.0f} s  {text}"
        if self._status:
            self._status.update(line)
        elif text != self._last:
            self._console.print(line, soft_wrap=True, highlight=False, markup=False)
        self._last = text

    def __enter__(self) -> "Progress":
        if self._status:
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._status:
            self._status.stop()

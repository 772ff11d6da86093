"""Runs a control plane's parts: in order, again when one ends, and none longer than itself or the process that it belongs to.

It lives as long as the control plane, so it imports next to nothing.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from types import FrameType
from typing import Any

from apps.common.settings import inherited_environment

_POLL_S = 0.2
_PAUSE_S = 0.5  # before a part that ended is started again
_PR_SET_PDEATHSIG = 1


class _Ending(BaseException):
    """The supervisor was asked to end, or the process that it belongs to is gone."""


def run(directory: Path, with_process: int | None) -> int:
    """Run the parts of `directory`/parts.json until SIGTERM or SIGINT, or until `with_process` is gone."""
    parts = [_Part(directory, **part) for part in json.loads((directory / "parts.json").read_text())]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    with contextlib.suppress(_Ending):
        watched = _open(with_process)
        while True:
            if any([part.start_if_due() for part in parts]):
                _record_running(directory, parts)
            if select.select(watched, [], [], _POLL_S)[0]:
                break
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    _stop([part.process for part in parts if part.process])
    return 0


class _Part:
    """One program, and its process if it was started."""

    def __init__(self, directory: Path, name: str, command: list[str], environment: dict[str, str], after: str | None) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self._directory = directory
        self._command = command
        self._environment = environment
        self._after = after
        self._ended: float | None = None

    def start_if_due(self) -> bool:
        """Start it if what it waits for is there and it does not run. True if it was started."""
        if self.process and self.process.poll() is None:
            return False
        if self.process and self._ended is None:
            self._ended = time.monotonic()
        if (self._ended and time.monotonic() < self._ended + _PAUSE_S) or (self._after and not Path(self._after).exists()):
            return False
        self._ended = None
        with (self._directory / "logs" / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                env={**inherited_environment(), **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the supervisor alone
                cwd=self._directory,
                preexec_fn=end_with_parent,  # there is one thread
            )
        return True


def end_with_parent() -> None:
    """Call it in a child process: the kernel ends it when the thread that started it ends, however that happens."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _record_running(directory: Path, parts: list[_Part]) -> None:
    temporary = directory / "running.tmp"
    temporary.write_text(json.dumps({part.name: part.process.pid for part in parts if part.process}))
    temporary.replace(directory / "running.json")


def _stop(processes: "list[subprocess.Popen[bytes]]") -> None:
    """Kill them at once: nothing that they keep is needed any more, and the API server alone would take many seconds to end."""
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()


def _open(pid: int | None) -> list[Any]:
    """What becomes readable when that process, not a child of this one, ends."""
    try:
        return [os.pidfd_open(pid)] if pid else []
    except ProcessLookupError:
        raise _Ending from None


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the form of a signal handler
    raise _Ending

"""Find and stop the processes of one stack: never another Ray's, never by name.

Each node of a stack is one session of the operating system, led by `ray start`. Ray's workers overwrite their environment with
their titles, so a mark there is not enough; a session id alone could be reused. A process belongs to the stack if it is in one
of its sessions and still works in its temp directory.
"""

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import psutil

_GRACE_S = 5.0


def find(session_ids: Collection[int], temp_dir: Path) -> list[psutil.Process]:
    """Every living process of the stack."""
    return [process for process in psutil.process_iter() if _belongs(process, session_ids, temp_dir)]


def stop_all(session_ids: Collection[int], temp_dir: Path, *, deadline_s: float = 60) -> None:
    """Stop the stack's processes: with SIGTERM first, then with SIGKILL, until none is left.

    Raises:
        TimeoutError: some are left at the deadline; they are named.
    """
    end = time.monotonic() + deadline_s
    send(psutil.Process.terminate, running := find(session_ids, temp_dir))
    psutil.wait_procs(running, timeout=_GRACE_S)
    while left := find(session_ids, temp_dir):
        if time.monotonic() > end:
            raise TimeoutError(f"still running after {deadline_s:.0f} s: {', '.join(str(p.pid) for p in left)}")
        send(psutil.Process.kill, left)
        psutil.wait_procs(left, timeout=_GRACE_S)


def send(signal: Callable[[psutil.Process], None], processes: Iterable[psutil.Process]) -> None:
    """Send a signal to each that still lives: some end with the ones before them."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            signal(process)


def _belongs(process: psutil.Process, session_ids: Collection[int], temp_dir: Path) -> bool:
    try:
        return (
            os.getsid(process.pid) in session_ids
            and process.status() != psutil.STATUS_ZOMBIE
            and Path(process.cwd()).is_relative_to(temp_dir)
        )
    except (psutil.Error, OSError):
        return False

"""A head of Ray, started for real without any app."""

import contextlib
import socket
import sys
import tempfile
import time
from pathlib import Path

import pytest

from emulation.hosts import processes
from emulation.hosts.head import start_head
from emulation.hosts.preflight import free_ports

START_S = 90


@pytest.mark.full
def test_an_environment_may_have_spaces_in_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray starts its processes by lines for a shell, and puts its own path into LD_PRELOAD."""
    spaced = tmp_path / "my project"
    spaced.symlink_to(sys.prefix)
    monkeypatch.setattr(sys, "executable", str(spaced / "bin" / Path(sys.executable).name))
    monkeypatch.setattr(sys, "prefix", str(spaced))
    port, dashboard_port = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="rts-", dir="/tmp") as directory:
        temp_dir = Path(directory)
        head = start_head(temp_dir, port, dashboard_port, classic=False, redis=None)
        try:
            deadline = time.monotonic() + START_S
            while not _listens(head.first_port + 1):  # Ray's client server, which such a line starts
                assert head.process.poll() is None, head.log.read_text()
                assert time.monotonic() < deadline, head.log.read_text()
                time.sleep(0.2)
            running = [word for process in processes.find([head.process.pid], temp_dir) for word in process.cmdline()[:1]]
            assert [program for program in running if program.startswith(str(spaced))] == []
        finally:
            processes.stop_all([head.process.pid], temp_dir)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False

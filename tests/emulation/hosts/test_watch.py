"""What is told of a start that failed, the line that says why, and of an app that is lost later."""

import subprocess
import sys
from pathlib import Path

import pytest

from apps.common.errors import OperationError
from emulation.hosts import command
from emulation.hosts.head import Head
from emulation.hosts.watch import reason, wait_until_serving

HEAD = """
Ray runtime started.
Some Ray subprocesses exited unexpectedly:
  ray_client_server [exit code=1]

----- BEGIN ray_client_server.err tail (exit code(s)=1) -----
Traceback (most recent call last):
  File "server.py", line 1, in main
RuntimeError: Failed to bind to address 127.0.0.1:30635
E1129 18:43:30 chttp2_server.cc:1
----- END ray_client_server.err tail (exit code(s)=1) -----

Remaining processes will be killed.
"""
COLOURED = """
2026-11-29 19:46:10,036\tERR scripts.py:1307 -- \x1b[31mSome Ray subprocesses exited unexpectedly:\x1b[39m
2026-11-29 19:46:10,036\tERR scripts.py:87 -- \x1b[31m\x1b[1mray_client_server\x1b[22m\x1b[2m [exit code=127]\x1b[0m
2026-11-29 19:46:10,037\tERR scripts.py:115 -- \x1b[31m----- BEGIN ray_client_server.err tail (exit code(s)=127) -----\x1b[39m
bash: line 1: /home/my: No such file or directory
2026-11-29 19:46:10,038\tERR scripts.py:1315 -- \x1b[31mRemaining processes will be killed.\x1b[39m
"""


@pytest.mark.parametrize(
    ("log", "why"),
    [
        (HEAD, "ray_client_server [exit code=1] / RuntimeError: Failed to bind to address 127.0.0.1:30635"),
        (COLOURED, "ray_client_server [exit code=127] / bash: line 1: /home/my: No such file or directory"),
        ("OSError: [Errno 28] No space left on device\nbye\n", "OSError: [Errno 28] No space left on device"),
        ("one\n\ntwo\n", "one / two"),
        ("", "no output"),
    ],
)
def test_the_line_that_says_why_is_shown(log: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(log)
    assert reason(tmp_path / "log") == why


def test_a_dashboard_that_stops_answering_does_not_end_the_deadline(tmp_path: Path) -> None:
    def report(text: str) -> None:
        raise OperationError(f"not ready: {text}")

    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    with subprocess.Popen(["sleep", "60"]) as running:
        head = Head(running, {"RAY_AUTH_MODE": "disabled"}, tmp_path / "log", 0)
        with pytest.raises(OperationError, match="not ready"):
            wait_until_serving(head, done, "http://127.0.0.1:1", ["llm"], report)
        running.kill()


def test_an_app_that_is_lost_and_comes_back_is_told_once_each(capsys: pytest.CaptureFixture[str]) -> None:
    runs: dict[str, dict[str, str]] = {"llm": {"status": "RUNNING"}}
    lost = {"llm": {"status": "UNHEALTHY", "message": "RayActorError: The actor died: it was killed by SIGKILL"}}
    state = None
    for apps in (runs, runs, lost, lost, {}, runs, runs):  # for a moment the dashboard does not answer
        state = command._report_change(state, apps)
    assert capsys.readouterr().out.splitlines() == [
        "app llm is UNHEALTHY: RayActorError: The actor died: it was killed by SIGKILL; Ray starts again what has ended",
        "all apps run",
    ]

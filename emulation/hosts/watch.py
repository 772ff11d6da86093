"""Deploy the config with `serve deploy`, then poll Serve's own status until every app runs, and send a test request."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

from apps.common import serve_status
from apps.common.errors import OperationError
from emulation.hosts import token
from emulation.hosts.head import Head

_POLL_S = 0.25
# Tries again while the dashboard starts, or was replaced under it; without the process that waits for it, it ends.
_DEPLOY_WHEN_UP = """
import os, sys, time, urllib.request
from ray.serve.scripts import cli
url, deadline, starter, *arguments = sys.argv[1:]
while True:
    try:
        urllib.request.urlopen(url, timeout=5).read()
        sys.exit(cli(arguments, prog_name="serve", standalone_mode=False))
    except OSError:
        if time.time() > float(deadline) or os.getppid() != int(starter):
            raise
        time.sleep(0.1)
"""
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_HEADING = re.compile(r"^\d{4}-\d\d-\d\d [\d:,]+\s+[A-Z]+ \w+\.py:\d+ -- *")
_RULER = re.compile(r"^\W*(BEGIN|END) .* tail\b")
_TELLING = re.compile(r"\b\w*(Error|Exception|error|failed|refused|denied|not found|No such file|No space left)\b")


@contextmanager
def deploying(head: Head, dashboard_url: str, config: Path, deadline: float) -> Iterator[subprocess.Popen[bytes]]:
    """Run `serve deploy CONFIG` from the start of the block to its end. It imports while the dashboard comes up."""
    up_when = [f"{dashboard_url}/api/authentication_mode", str(deadline), str(os.getpid())]
    serve_deploy = ["deploy", "--address", dashboard_url, str(config)]
    process = subprocess.Popen(
        [sys.executable, "-c", _DEPLOY_WHEN_UP, *up_when, *serve_deploy],
        env=head.environment,
        stdin=subprocess.DEVNULL,
        stdout=(head.log.parent / "serve-deploy.log").open("wb"),
        stderr=subprocess.STDOUT,
        cwd=head.log.parent,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until_serving(
    head: Head, deploy: subprocess.Popen[bytes], dashboard_url: str, needed: Collection[str], report: Callable[[str], None]
) -> list[str]:
    """Block until every app runs or has failed. Returns why those that are not needed have failed, a line for each.

    Raises:
        OperationError: Ray or `serve deploy` exited, a needed app failed (with Serve's message), or the deadline of the
            caller's `serve deploy` passed before the dashboard came up.
    """
    while True:
        if head.process.poll() is not None:
            raise OperationError(f"Ray's head exited with code {head.process.returncode}: {reason(head.log)}")
        if deploy.poll() is None:
            report("starting Ray and Serve")
        elif deploy.returncode:
            raise OperationError(f"serve deploy failed: {reason(head.log.parent / 'serve-deploy.log')}")
        else:
            apps = applications(head, dashboard_url)
            failed = serve_status.failures(apps)
            if lost := [why for name, why in failed.items() if name in needed]:
                raise OperationError(lost[0])
            if apps and all(app["status"] == "RUNNING" or name in failed for name, app in apps.items()):
                return list(failed.values())
            report(serve_status.waiting_for(apps))
        time.sleep(_POLL_S)


def applications(head: Head, dashboard_url: str) -> serve_status.Applications:
    """Serve's status of each app; none where the dashboard does not answer."""
    try:
        request = urllib.request.Request(f"{dashboard_url}/api/serve/applications/", headers=token.headers(head.environment))
        with urllib.request.urlopen(request, timeout=10) as response:
            return dict(json.load(response).get("applications") or {})
    except (OSError, ValueError):
        return {}


def reason(log: Path) -> str:
    """The lines of a program's log that say why it ended: what has exited, and the last that speaks of an error."""
    output = _COLOUR.sub("", log.read_text(errors="replace"))
    bare = [_HEADING.sub("", line).strip() for line in output.splitlines()]
    lines = [line for line in bare if line and not _RULER.match(line)]
    exited = [line for line in lines if "[exit code" in line]
    telling = [*exited, *[line for line in lines if _TELLING.search(line) and line not in exited][-1:]]
    return " / ".join(telling or lines[-3:]) or "no output"


def send_test_request(api_url: str, model_id: str, key: str | None, timeout_s: float) -> None:
    """Send a test request for one token; while a proxy does not know the new replica yet (503), send it again.

    Raises `OperationError` if no response comes within `timeout_s` seconds.
    """
    body = json.dumps({"model": model_id, "prompt": "Water boils at", "max_tokens": 1}).encode()
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(f"{api_url}/completions", body, headers)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(request, timeout=max(1.0, deadline - time.monotonic())) as response:
                json.load(response)["choices"][0]["text"]
            return
        except (OSError, ValueError, KeyError, IndexError) as error:
            unavailable = isinstance(error, urllib.error.HTTPError) and error.code == HTTPStatus.SERVICE_UNAVAILABLE
            if not unavailable or time.monotonic() + _POLL_S > deadline:
                raise OperationError(f"{api_url} did not answer the test request: {error}") from error
        time.sleep(_POLL_S)

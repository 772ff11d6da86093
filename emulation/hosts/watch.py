"""Deploy the config with `serve deploy`, then poll Serve's own status until every app runs, and send a test request."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from apps.common import serve_status
from apps.common.errors import OperationError
from emulation.hosts import token
from emulation.hosts.head import Head

_POLL_S = 0.25
_DEPLOY_WHEN_UP = """
import sys, time, urllib.request
from ray.serve.scripts import cli
url, deadline, *arguments = sys.argv[1:]
while time.time() < float(deadline):
    try:
        urllib.request.urlopen(url, timeout=5).read()
        break
    except OSError:
        time.sleep(0.1)
cli(arguments, prog_name="serve")
"""


@contextmanager
def deploying(head: Head, dashboard_url: str, config: Path, deadline: float) -> Iterator[subprocess.Popen[bytes]]:
    """Run `serve deploy CONFIG` from the start of the block to its end. It imports while the dashboard comes up."""
    serve_deploy = ["deploy", "--address", dashboard_url, str(config)]
    process = subprocess.Popen(
        [sys.executable, "-c", _DEPLOY_WHEN_UP, f"{dashboard_url}/api/authentication_mode", str(deadline), *serve_deploy],
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


def wait_until_serving(head: Head, deploy: subprocess.Popen[bytes], dashboard_url: str, report: Callable[[str], None]) -> None:
    """Block until Serve reports that all apps run.

    Raises:
        OperationError: Ray or `serve deploy` exited, an app failed (with Serve's message), or the deadline of the caller's
            `serve deploy` passed before the dashboard came up.
    """
    headers = token.headers(head.environment)
    while True:
        if head.process.poll() is not None:
            raise OperationError(f"Ray's head exited with code {head.process.returncode}: {_last_lines(head.log)}")
        if deploy.poll() is None:
            report("starting Ray and Serve")
        elif deploy.returncode:
            raise OperationError(f"serve deploy failed: {_last_lines(head.log.parent / 'serve-deploy.log')}")
        elif _all_running(_get_json(f"{dashboard_url}/api/serve/applications/", headers), report):
            return
        time.sleep(_POLL_S)


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


def _all_running(details: dict[str, Any] | None, report: Callable[[str], None]) -> bool:
    applications = (details or {}).get("applications") or {}
    if failed := serve_status.failure(applications):
        raise OperationError(failed)
    if serve_status.all_running(applications):
        return True
    report(serve_status.waiting_for(applications))
    return False


def _get_json(url: str, headers: dict[str, str]) -> dict[str, Any] | None:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as response:
            return json.load(response)
    except (urllib.error.URLError, OSError, ValueError):
        return None


def _last_lines(log: Path, count: int = 3) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-count:]) or "no output"

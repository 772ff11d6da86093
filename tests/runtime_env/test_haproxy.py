"""runtime_env/haproxy with the real HAProxy and a configuration as Ray writes it, in front of a server of the test's own."""

import json
import os
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from pydantic import ValidationError

from apps.common.settings import SERVE_HAPROXY
from apps.guard.settings import Bounds
from emulation.hosts.head import stack_environment
from kuberay.manifests.pods import head_template
from runtime_env.haproxy.config import RAY, Settings, UnexpectedConfigError, edited
from tests.e2e.conftest import ROOT
from tests.e2e.emulated import wait_for
from tests.kuberay.specs import spec
from tests.runtime_env.real_haproxy import own_ports, started, status, write_config

UNKNOWN = "/unknown"
"""Path where the server breaks the connection instead of answering."""
ENVIRONMENT = {**SERVE_HAPROXY, "HAPROXY_BINARY": "true", "HAPROXY_UNAVAILABLE_PORT": "1"}
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
        if self.path == UNKNOWN:
            self.connection.shutdown(socket.SHUT_RDWR)
        elif self.path.startswith("/slow/"):
            self._send_slowly(float(self.path.removeprefix("/slow/")))
        elif self.path == "/proto":
            self._send(200, {}, json.dumps(self.headers.get_all("x-forwarded-proto")).encode())
        elif refusal := REFUSALS.get(self.path):
            self._send(429, {"content-type": refusal[0], "retry-after": "7"}, refusal[1])
        else:
            self._send(200, {}, json.dumps(self.headers.get_all("x-request-id")).encode())

    def _send_slowly(self, seconds: float) -> None:
        """A byte every 100 ms."""
        count = round(seconds * 10)
        self.send_response(200)
        self.send_header("content-length", str(count))
        self.end_headers()
        with suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(count):
                self.wfile.write(b".")
                time.sleep(0.1)

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
    server_url: str
    """Address of the app itself."""

    def logged(self, request_id: str) -> dict[str, Any]:
        """The log line of a request, which comes when the request has ended."""

        def matching() -> list[dict[str, Any]]:
            lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
            return [line for line in lines if line.get("id") == request_id]

        wait_for(lambda: bool(matching()), 10, f"a line with {request_id}")
        (line,) = matching()
        return line


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("haproxy")
    ports = own_ports()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    metrics = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    metrics.bind(str(directory / "metrics.sock"))
    metrics.settimeout(10)
    config = write_config(directory, ports, server.server_address[1])
    url, tls_url = f"http://127.0.0.1:{ports['front']}", f"https://127.0.0.1:{ports['tls']}"
    with started(config, ports) as process:
        running = Running(
            url, tls_url, directory / "requests.jsonl", metrics, process, f"http://127.0.0.1:{server.server_address[1]}"
        )
        wait_for(lambda: status(running.url) == 200, 20, "HAProxy to answer")
        yield running
    server.shutdown()
    metrics.close()


def test_one_that_was_just_started_and_knows_no_app_says_try_again(tmp_path: Path) -> None:
    ports = own_ports()
    url = f"http://127.0.0.1:{ports['front']}"
    with started(write_config(tmp_path, ports, 1, knows_apps=False), ports):
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
    assert line["server"] == "SERVE_REPLICA_0"
    assert line["duration_ms"] >= line["first_byte_ms"] >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line["time"])


@pytest.mark.parametrize("given", [[], ["x" * 65], ["a b"], ['a"b\\c'], ["one", "two"]], ids=repr)
def test_without_an_id_that_is_one_a_new_one_is_made(haproxy: Running, given: list[str]) -> None:
    answer = httpx.get(f"{haproxy.url}/v1/models", headers=[("x-request-id", given_id) for given_id in given])
    (made,) = answer.json()
    assert made not in given
    assert answer.headers.get_list("x-request-id") == [made]
    assert haproxy.logged(made)["status"] == 200


def test_an_app_is_told_of_https(haproxy: Running) -> None:
    context = ssl.create_default_context(cafile=haproxy.log.parent / "c.pem")
    context.check_hostname = False
    for given in ({}, {"x-forwarded-proto": "http"}):
        assert httpx.get(f"{haproxy.tls_url}/proto", headers=given, verify=context).json() == ["https"]
    assert httpx.get(f"{haproxy.url}/proto").json() is None


def test_haproxys_own_answers_have_an_id_too(haproxy: Running) -> None:
    for path, note, expected in (("/away", b"", 503), ("/v1", "\u00e9".encode(), 400)):
        answer = httpx.get(f"{haproxy.url}{path}", headers=[(b"x-note", note)])
        assert answer.status_code == expected
        assert haproxy.logged(answer.headers["x-request-id"])["status"] == expected


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
        assert Echo.left.wait(5), "the server did not learn of it"
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
    wait_for(lambda: '"tls_error":"' in haproxy.log.read_text(), 10, "the broken handshake in the log")
    last = httpx.get(f"{haproxy.url}/last").headers["x-request-id"]
    haproxy.logged(last)
    lines = [json.loads(line) for line in haproxy.log.read_text().splitlines()]
    assert "/-/healthz" not in {line.get("path") for line in lines}
    assert [line["tls_error"] for line in lines if "error" in line] != [""]


@pytest.mark.parametrize(("path", "expected"), [(UNKNOWN, 502), ("/gone", 503)])
def test_haproxys_own_errors_are_in_openai_form(haproxy: Running, path: str, expected: int) -> None:
    answer = httpx.get(haproxy.url + path)
    assert (answer.status_code, answer.headers["retry-after"]) == (expected, "30")
    error = answer.json()["error"]
    assert (error["code"], set(error)) == (expected, {"message", "type", "param", "code"})


@pytest.mark.parametrize(("count", "size", "expected"), [(1, 60_000, 200), (400, 10, 431)])
def test_large_headers_are_left_to_what_is_behind(haproxy: Running, count: int, size: int, expected: int) -> None:
    headers = [(f"x-{number}", "x" * size) for number in range(count)]
    answer = httpx.get(haproxy.url, headers=headers)
    assert answer.status_code == expected
    assert "python" in answer.headers["server"].lower()


def test_a_path_that_no_app_has(tmp_path: Path) -> None:
    config = write_config(tmp_path, own_ports(), 1)
    lines = edited(config.read_text(), Settings("1", "127.0.0.1", None, None, logs=False)).splitlines()
    first = lines[lines.index("backend default_backend") + 1]
    assert json.loads(first.partition("string '")[2].rstrip("'"))["error"]["code"] == 404


def test_an_address_has_so_many_connections_and_no_more(tmp_path: Path) -> None:
    ports = own_ports()
    config = write_config(tmp_path, ports, 1, knows_apps=False)
    with started(config, ports, HAPROXY_CONNECTIONS_PER_ADDRESS="20"), ExitStack() as held:
        wait_for(lambda: status(f"http://127.0.0.1:{ports['front']}"), 20, "HAProxy to answer")
        assert sum(answered(held, ports["front"], "127.0.0.1") for _ in range(40)) == 20
        assert answered(held, ports["front"], "127.0.0.2")
        held.close()
        wait_for(lambda: status(f"http://127.0.0.1:{ports['front']}"), 5, "the places of those that left")


def test_an_address_opens_so_many_connections_in_ten_seconds(tmp_path: Path) -> None:
    ports = own_ports()
    config = write_config(tmp_path, ports, 1, knows_apps=False)
    with started(config, ports, HAPROXY_CONNECTION_RATE_PER_ADDRESS="50"):
        url = f"http://127.0.0.1:{ports['front']}"
        wait_for(lambda: status(url), 20, "HAProxy to answer")
        assert None in {status(url) for _ in range(100)}


def answered(held: ExitStack, port: int, address: str) -> bool:
    """Whether one more connection from an address is answered; it stays."""
    with suppress(ConnectionError):
        client = held.enter_context(socket.create_connection(("127.0.0.1", port), 5, (address, 0)))
        client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        return client.recv(100).startswith(b"HTTP/1.1 503")
    return False


@pytest.mark.parametrize(("hard_stop_s", "whole"), [(2, False), (60, True)])
def test_a_stream_across_a_change_of_membership_lives_as_long_as_it_is_let(
    haproxy: Running, tmp_path: Path, hard_stop_s: int, whole: bool
) -> None:
    ports, server = own_ports(), httpx.URL(haproxy.server_url).port or 0
    config = write_config(tmp_path, ports, server, hard_stop_after_s=hard_stop_s)
    url = f"http://127.0.0.1:{ports['front']}"
    with started(config, ports) as first:
        wait_for(lambda: status(url) == 200, 20, "HAProxy to answer")
        with httpx.stream("GET", f"{url}/slow/6") as answer, started(config, ports, "-sf", str(first.pid)):
            received = b""
            with suppress(httpx.RemoteProtocolError):
                for part in answer.iter_raw():
                    received += part
        assert (len(received) == 60) is whole


def test_every_stack_lets_a_request_live_as_long_as_the_guard_does(tmp_path: Path) -> None:
    local = stack_environment(tmp_path, 20_000, classic=False)
    pods = {
        variable["name"]: variable.get("value") for variable in head_template(spec(tmp_path))["spec"]["containers"][0]["env"]
    }
    for environment in (local, pods):
        assert int(environment["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"] or 0) >= Bounds().request_s
        assert int(environment["RAY_SERVE_HAPROXY_TUNE_BUFSIZE"] or 0) > Bounds().header_bytes + 1024
        assert environment["RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD"] == "0"
    with pytest.raises(ValidationError, match="3600"):
        Bounds(request_s=3601)
    with pytest.raises(ValidationError, match="16384"):
        Bounds(header_bytes=16_385)


@pytest.mark.parametrize("knows_apps", [True, False])
@pytest.mark.parametrize("line", ["global", "defaults", "frontend http_frontend", "backend default_backend", "    bind :"])
def test_a_line_of_rays_that_is_not_there_is_an_error(tmp_path: Path, line: str, knows_apps: bool) -> None:
    text = write_config(tmp_path, own_ports(), 1, knows_apps=knows_apps).read_text()
    settings = Settings("1", "127.0.0.1", None, None, logs=False)
    assert len(edited(text, settings)) > len(text)
    without = re.sub(f"^{line}.*\n|^ *bind \\*:.*\n" if "bind" in line else f"^{line}\n", "", text, flags=re.MULTILINE)
    with pytest.raises(UnexpectedConfigError, match=rf"'{line.strip()}.*Ray {re.escape(RAY)}"):
        edited(without, settings)


def test_another_form_of_rays_fallback_is_an_error_that_ray_is_told(tmp_path: Path) -> None:
    config = write_config(tmp_path, own_ports(), 1)
    config.write_text(
        config.read_text().replace("server SERVE_PROXY_ACTOR-fallback-a 127.0.0.1:1 ", "server SERVE_PROXY_ACTOR-fallback-a ")
    )
    command = [str(ROOT / "runtime_env" / "haproxy.sh"), "-f", str(config)]
    done = subprocess.run(command, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: Ray wrote 'server SERVE_PROXY_ACTOR-fallback-a check backup' for HAProxy")


def test_the_configuration_that_is_expected_is_of_the_ray_that_is_installed() -> None:
    assert version("ray") == RAY


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"HAPROXY_CONNECTIONS_PER_ADDRESS": "many"}, "HAPROXY_CONNECTIONS_PER_ADDRESS is 'many'"),
        ({"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "1"}, "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD must be 0"),
    ],
)
def test_an_environment_that_would_not_do_is_said(wrong: dict[str, str], words: str) -> None:
    command = [str(ROOT / "runtime_env" / "haproxy.sh"), "-f", "x"]
    done = subprocess.run(command, env={**os.environ, **ENVIRONMENT, **wrong}, capture_output=True, text=True)
    assert (done.returncode, words in done.stderr) == (1, True)

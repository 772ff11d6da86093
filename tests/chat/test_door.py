"""The chat's door: no file of the server, no route that the page does not use, bounded bodies, images of one session alone."""

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.chat.visitor import PNG, Visitor, as_file, chat
from tests.fake_openai import FakeServer, running
from tests.guard.served import MODEL, Keys, Served, wait_for

FILE = {"type": "file", "file": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}}
CLOSED = [
    ("GET", "/config"),
    ("GET", "/info"),
    ("GET", "/monitoring"),
    ("GET", "/monitoring/summary"),
    ("GET", "/pwa_icon"),
    ("GET", "/robots.txt"),
    ("GET", "/manifest.json"),
    ("GET", "/docs"),
    ("GET", "/gradio_api/info"),
    ("GET", "/gradio_api/openapi.json"),
    ("GET", "/gradio_api/token"),
    ("GET", "/gradio_api/user"),
    ("GET", "/gradio_api/app_id"),
    ("GET", "/gradio_api/runs"),
    ("GET", "/gradio_api/deep_link?session_hash=x"),
    ("GET", "/gradio_api/proxy=http://127.0.0.1:1/x"),
    ("GET", "/gradio_api/file=http://127.0.0.1:1/x"),
    ("GET", "/gradio_api/file=/etc/passwd"),
    ("GET", "/gradio_api/file//etc/passwd"),
    ("GET", "/gradio_api/file=/tmp/gradio/../../etc/passwd"),
    ("GET", "/static/..%2f..%2f..%2f..%2f..%2fetc/passwd"),
    ("GET", "/assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd"),
    ("GET", "/gradio_api/stream/a/b/1/playlist.m3u8"),
    ("GET", "/gradio_api/dev/reload"),
    ("GET", "/gradio_api/vibe-code"),
    ("GET", "/gradio_api/call/load/x"),
    ("POST", "/gradio_api/run/predict"),
    ("POST", "/gradio_api/api/predict"),
    ("POST", "/gradio_api/call/load"),
    ("POST", "/gradio_api/component_server"),
    ("POST", "/gradio_api/reset"),
    ("POST", "/gradio_api/process_recording"),
    ("POST", "/gradio_api/stream/x"),
    ("DELETE", "/gradio_api/queue/join"),
]


@pytest.fixture
def alice(url: str, keys: Keys) -> Iterator[Visitor]:
    with Visitor(url, keys.texts["alice"]) as visitor:
        yield visitor
        visitor.get("/logout")


@pytest.mark.parametrize(
    "data",
    [
        [{"text": "x", "files": [as_file("/etc/passwd")]}],
        [{"text": "x", "files": [{"path": "/etc/passwd"}]}],
        [{"text": "x", "files": [{"meta": {"_type": "gradio.FileData"}, "url": "http://127.0.0.1:1/x"}]}],
        [{"text": "x", "files": [as_file("http://127.0.0.1:1/x")]}],
        [[{"role": "user", "content": [FILE]}]],
    ],
)
def test_a_client_names_no_file_of_the_server(alice: Visitor, data: list[object]) -> None:
    refused = alice.fire("submit", data)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "no_such_file")


def test_gradio_itself_refuses_a_file_that_nobody_uploaded(alice: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.chat.payload._check_files", lambda *_: None)  # were the door's check not there
    events = alice.do("submit", [{"text": "x", "files": [as_file("/etc/hostname.png")]}])
    assert '"success":false' in events


def test_a_history_of_the_clients_own_is_no_input(alice: Visitor) -> None:
    """The server keeps it, so that there is no place for files, or for components that Gradio would build."""
    component = {"component": "html", "value": "x", "constructor_args": {}, "props": {}}
    alice.do("load")
    events = alice.do("retry", [[{"role": "user", "content": [component]}]])
    assert '"success":false' in events or "component" not in events


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_nothing_that_the_page_does_not_use(alice: Visitor, method: str, path: str) -> None:
    answer = alice.request(method, path, content=b"{}" if method == "POST" else None)
    assert answer.status_code == 404, answer.text
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [*CLOSED, ("GET", "/gradio_api/startup-events"), ("GET", "/static/img/logo.svg"), ("POST", "/gradio_api/queue/join")],
)
def test_nothing_of_gradio_without_a_login(url: str, method: str, path: str) -> None:
    with Visitor(url) as stranger:
        assert stranger.request(method, path, content=b"{}" if method == "POST" else None).status_code == 401
        assert "gradio" not in stranger.get("/").text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"data": [], "fn_index": 999, "session_hash": "a"}',
        b'{"data": [], "fn_index": 0, "session_hash": "../a"}',
        b'{"data": [], "fn_index": 0, "session_hash": "a", "batched": true}',
        json.dumps({"data": [json.loads("[" * 30 + "]" * 30)], "fn_index": 0, "session_hash": "a"}).encode(),
    ],
)
def test_what_the_page_never_sends_is_refused(alice: Visitor, body: bytes) -> None:
    assert alice.post("/gradio_api/queue/join", content=body).status_code == 400


def test_large_bodies_are_refused_without_being_kept(url: str, alice: Visitor) -> None:
    def chunks(count: int) -> Iterator[bytes]:
        return (b"x" * (1 << 20) for _ in range(count))

    before = psutil.Process().memory_info().rss
    for visitor, path, status in [
        (Visitor(url), "/login", 413),
        (Visitor(url), "/gradio_api/queue/join", 401),
        (alice, "/gradio_api/queue/join", 413),
        (alice, "/gradio_api/upload", 413),
    ]:
        assert visitor.post(path, content=b"x" * (12 << 20)).status_code == status
        with contextlib.suppress(httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):  # cut off while it still sends
            assert visitor.post(path, content=chunks(200)).status_code == status
    assert psutil.Process().memory_info().rss - before < 150 << 20


def test_600_slow_bodies_keep_nobody_out(url: str, keys: Keys) -> None:
    address = urlsplit(url)
    half = b"POST /chat/login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nkey="
    sockets = []
    try:
        for _ in range(600):
            connection = socket.create_connection((address.hostname or "", address.port or 0))
            connection.sendall(half)
            sockets.append(connection)
        start = time.monotonic()
        with Visitor(url, keys.texts["alice"]) as visitor:
            assert visitor.get("/").status_code == 200
        assert time.monotonic() - start < 5
        sockets[0].settimeout(5)
        assert sockets[0].recv(100).startswith(b"HTTP/1.1 408")  # the oldest gave way
    finally:
        for connection in sockets:
            connection.close()


def test_images_are_their_sessions_own_and_go_with_it(alice: Visitor, url: str, keys: Keys) -> None:
    (name,) = alice.upload().json()
    assert alice.get(f"/gradio_api/file={name}").content == PNG
    assert not Path(name).exists()
    with Visitor(url, keys.texts["bob"]) as bob, Visitor(url, keys.texts["alice"]) as other:
        for visitor in (bob, other):
            assert visitor.get(f"/gradio_api/file={name}").status_code == 404
            assert visitor.fire("submit", [{"text": "x", "files": [as_file(name)]}]).status_code == 400
    alice.get("/logout")
    assert alice.get(f"/gradio_api/file={name}").status_code == 401
    assert alice.log_in(keys.texts["alice"]).status_code == 200
    assert alice.get(f"/gradio_api/file={name}").status_code == 404


def test_images_are_bounded_in_kind_size_and_number(alice: Visitor) -> None:
    assert alice.upload(b"<svg onload='x'/>", "a.svg").status_code == 415
    assert alice.upload(PNG + b"0" * (11 << 20)).status_code == 413
    statuses = [alice.upload().status_code for _ in range(17)]
    assert statuses == [200] * 16 + [413]


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=" + "y" * 300, "multipart/form-data; boundary=x"]
)
@pytest.mark.parametrize("path", ["/login", "/gradio_api/upload"])
def test_a_form_that_is_none_is_the_clients_error(alice: Visitor, path: str, kind: str) -> None:
    part = b'--x\r\ncontent-disposition: form-data; name="files"; filename="a"\r\n\r\n' + PNG + b"\r\n"
    for body in (b"key=a", part * 5 + b"--x--\r\n"):
        refused = alice.post(path, content=body, headers={"content-type": kind})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_body")


def test_the_limit_of_all_images_holds_for_all_sessions(url: str, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.chat.sessions._ALL_IMAGE_BYTES", 2 * len(PNG))
    with Visitor(url, keys.texts["alice"]) as alice, Visitor(url, keys.texts["bob"]) as bob:
        assert [visitor.upload().status_code for visitor in (alice, bob, alice)] == [200, 200, 503]
        alice.get("/logout")
        assert bob.upload().status_code == 200


def test_another_session_hears_nothing_of_a_page(alice: Visitor, url: str, keys: Keys) -> None:
    assert alice.fire("load").status_code == 200
    with Visitor(url, keys.texts["bob"]) as bob:
        with pytest.raises(httpx.RemoteProtocolError):  # broken off: Gradio knows no such page of bob's
            bob.events()
        assert MODEL in alice.events()


def test_one_session_cannot_take_all_connections(alice: Visitor) -> None:
    streams: list[threading.Thread] = []
    statuses: list[int] = []

    def hold(stop: threading.Event) -> None:
        with Visitor(str(alice.base_url)) as same:
            same.cookies.update(alice.cookies)
            with same.stream("GET", "/gradio_api/heartbeat/abc") as stream:
                statuses.append(stream.status_code)
                stop.wait(20)

    stop = threading.Event()
    for _ in range(40):
        streams.append(threading.Thread(target=hold, args=(stop,)))
        streams[-1].start()
    try:
        wait_for(lambda: len(statuses) == 40, 15, "an answer for each")
    finally:
        stop.set()
        for stream in streams:
            stream.join()
    assert (statuses.count(200), statuses.count(429)) == (32, 8)


def test_one_key_cannot_keep_others_from_their_answers() -> None:
    fake = FakeServer(tokens=20, itl_s=0.3)
    with running(fake), chat(fake.url, concurrency=2) as url, ThreadPoolExecutor(3) as threads:
        alices = [threads.submit(Visitor(url, "alice").ask, "Hello", "fake") for _ in range(3)]
        wait_for(lambda: bool(fake.requests), 30, "alice's first answer to begin")
        assert "TTFT" in Visitor(url, "bob").ask("Hello", "fake")
        answers = [alice.result() for alice in alices]
    refused = sum("Ask again when one of them is done" in answer for answer in answers)
    assert refused in (1, 2)  # two, unless one waited until the first was done
    assert len(fake.requests) == len(answers) + 1 - refused


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_sites_use_nothing(alice: Visitor, site: str) -> None:
    headers = {"sec-fetch-site": site}
    assert alice.post("/gradio_api/queue/join", json={}, headers=headers).status_code == 403
    assert alice.post("/login", data={"key": "x"}, headers=headers).status_code == 403
    assert alice.get("/logout", headers=headers).status_code == 403
    assert alice.get("/", headers=headers).status_code == 200
    allowed = alice.get("/", headers={"origin": "http://elsewhere.example"}).headers
    assert not [name for name in allowed if name.startswith("access-control")]


def test_the_page_may_fetch_nothing_from_elsewhere(alice: Visitor, url: str) -> None:
    for page in (alice.get("/"), Visitor(url).get("/"), Visitor(url).log_in("wrong")):
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "img-src 'self' data: blob:;" in policy
        assert "'unsafe-inline'" not in re.search(r"script-src [^;]*", policy)[0]  # type: ignore[index]
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert page.headers["cache-control"] == "no-store"
    assert "share" not in next(part for part in alice.settings()["components"] if part["type"] == "chatbot")["props"]["buttons"]


def test_the_audit_names_the_visitor(alice: Visitor, model: Served) -> None:
    alice.ask("Hello", MODEL)
    wait_for(lambda: '"/v1/chat/completions"' in model.audit.read_text(), 5, "the line of the answer")
    assert '"key": "alice"' in model.audit.read_text() or '"key":"alice"' in model.audit.read_text()


def test_no_event_of_the_page_shows_the_servers_inside(alice: Visitor) -> None:
    """Visitor looks at what each of them says."""
    handlers = alice.settings()["dependencies"]
    assert len(handlers) > 5
    for handler in handlers:
        join = {"data": [None] * len(handler["inputs"]), "fn_index": handler["id"], "session_hash": alice.page}
        assert alice.post("/gradio_api/queue/join", json=join).status_code == 200
        assert "process_completed" in alice.events()

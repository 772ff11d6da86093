"""Requests to the chat that nobody means well with, drawn by hypothesis: events, files, uploads, logins, cookies, paths."""

import json
from typing import Any

from hypothesis import strategies as st

from tests.chat.visitor import PNG
from tests.guard.hostile import HEADERS, JSON, ODD_TEXTS, VALUES, Hostile, Repeated

FILES = st.sampled_from(
    [
        *("/etc/passwd", "/proc/self/environ", "../../../etc/passwd", "keys.json", "/tmp/gradio/a.png", "C:\\x", "a" * 3000),
        *("http://127.0.0.1:8265/api/version", "file:///etc/passwd", "%2fetc%2fpasswd", "//etc/passwd", "\x00", ""),
    ]
)
_FILE = st.builds(lambda path, meta: {"path": path, "meta": meta}, FILES, st.just({"_type": "gradio.FileData"}) | VALUES)
_SENT = st.builds(lambda text, files: {"text": text, "files": files}, ODD_TEXTS, st.lists(_FILE | VALUES, max_size=2))
_HISTORY = st.builds(lambda file: [{"role": "user", "content": [{"type": "file", "file": file}]}], _FILE)
_PAGES = st.sampled_from(["a1b2c3", "zz", "../a", "", "x" * 33, "a\n"])
_JOINS = st.builds(
    lambda data, event, page, more: {"data": data, "fn_index": event, "session_hash": page, **more},
    st.lists(VALUES | _SENT | _HISTORY, max_size=7),
    st.integers(0, 24) | VALUES,
    _PAGES,
    st.dictionaries(
        st.sampled_from(["event_data", "trigger_id", "batched", "request", "event_id"]), VALUES | _FILE, max_size=1
    ),
)
_ASKED = st.sampled_from(
    [
        *([], [{"text": "hi", "files": []}], [{"index": 0, "value": "x"}], [None], [None] * 6),
        *(
            ["gemma-3-270m", "", 0, 1, 2, False],
            ["gemma-3-270m", "be brief", 2, 0.5, 2**63, True],
            [None, None, "x", [], {}, ""],
        ),
    ]
)
_ASKS = st.builds(
    lambda event, page, data: {"data": data, "fn_index": event, "session_hash": page},
    st.integers(0, 24),
    st.sampled_from(["a1b2c3", "zz"]),
    _ASKED,
)
_EVENTS = st.sampled_from(
    ["/queue/join", "/cancel", "/run/predict", "/api/predict", "/call/load", "/component_server", "/reset"]
)
_PATHS = st.sampled_from(
    [
        *("/", "", "/login", "/logout", "/config", "/theme.css", "/docs", "/monitoring", "/static/..%2f..%2fetc/passwd"),
        *("/assets/%2e%2e/%2e%2e/etc/passwd", "/gradio_api/info", "/gradio_api/startup-events", "/gradio_api/proxy=http://x"),
        *("/gradio_api/deep_link?session_hash=x", "/gradio_api/stream/a/b/1/playlist.m3u8", "/gradio_api/queue/data"),
        *("/gradio_api/queue/data?session_hash=a1b2c3", "/gradio_api/heartbeat/a1b2c3", "/gradio_api/heartbeat/%00"),
    ]
)
_FORMS = st.sampled_from(
    [b"", b"key=", b"key=rts_000000000000_" + b"0" * 48, b"key=%00", b"key=" + b"x" * 600, b"key=a&key=b", b"\xff" * 50, b"{}"]
)
_KINDS = st.sampled_from(
    [b"application/x-www-form-urlencoded"] * 3
    + [b"multipart/form-data", b"multipart/form-data; boundary=" + b"x" * 300, b"multipart/form-data; boundary=x; charset=none"]
)
_KEPT = st.sampled_from([PNG, b"\xff\xd8\xff" + b"0" * 99, b"<svg onload='x'/>", b"MZ", b"", b"RIFF" + b"\x00" * 5000])
_MORE_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [b"x-forwarded-prefix", b"x-forwarded-host", b"x-forwarded-proto", b"cookie", b"sec-fetch-site", b"range"]
        ),
        st.sampled_from(
            [b"//evil.example", b"/../..", b"https", b"chat_session=x", b"chat_session=" + b"y" * 43, b"cross-site", b""]
        ),
    ),
    max_size=2,
)
_METHODS = st.sampled_from(["GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])


def _multipart(content: bytes, name: str, count: int, *, whole: bool) -> bytes:
    head = f'--x\r\ncontent-disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode("utf-8", "surrogatepass")
    return (head + content + b"\r\n") * count + (b"--x--\r\n" if whole else b"")


@st.composite
def requests(draw: st.DrawFn) -> Hostile:
    """Nine of ten are sent with a session."""
    headers = draw(HEADERS) + draw(_MORE_HEADERS) if draw(st.integers(0, 4)) == 0 else []
    kind = draw(st.integers(0, 11))
    method, path, body = "POST", "", b""
    more: list[tuple[bytes, bytes]] = []
    if kind <= 2:
        path = f"/gradio_api{draw(_EVENTS)}" if kind else "/gradio_api/queue/join"
        body, more = _raw(draw(_JOINS | VALUES)), JSON
    elif kind <= 5:
        path, body, more = "/gradio_api/queue/join", _raw(draw(_ASKS)), JSON
    elif kind == 6:
        method, path = "GET", f"/gradio_api/queue/data?session_hash={draw(_PAGES)}"
    elif kind == 7:
        method, path = "GET", f"/gradio_api/file={draw(FILES)}"
    elif kind == 8:
        path, more = "/gradio_api/upload", [(b"content-type", b"multipart/form-data; boundary=x")]
        name = draw(st.sampled_from(["a.png", "../../a.png", "a" * 300, ".."]))
        body = _multipart(draw(_KEPT), name, draw(st.sampled_from([1, 2, 5])), whole=draw(st.booleans()))
    elif kind == 9:
        path, body, more = "/login", draw(_FORMS), [(b"content-type", draw(_KINDS))]
    else:
        method, path = draw(_METHODS), draw(_PATHS)
    large = Repeated(b"", b"x", draw(st.sampled_from([5000, 300_000, 11 << 20])), b"")
    sent = large if method == "POST" and draw(st.integers(0, 49)) == 0 else body
    return Hostile(method, f"/chat{path}", [*more, *headers], sent, draw(st.integers(0, 9)) > 0)


def _raw(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")

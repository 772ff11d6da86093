"""A small Hugging Face hub on loopback: one repository's listing and files, gates, and faults. Reached by HF_ENDPOINT."""

import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from apps.weights.sources import git_blob_id

REPOSITORY = "google/gemma-4-test"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
RIGHT = "hf_right"
_CHUNK = 64 * 1024


class QuietServer(ThreadingHTTPServer):
    """A client that was killed is no news."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class Hub:
    """`files` are the repository; `*.safetensors` are large files there, read through a link.

    `faults` go to the next reads: 429, 500, cut, more, flip, stall, or expired for the link. Without `ranges` a read gets all.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.gated = False
        self.downloaded: Counter[str] = Counter()
        self.faults: list[str] = []
        self.pause_s = 0.0
        self.ranges = True
        self.links = 0
        self.closing = threading.Event()
        self._server = QuietServer(("127.0.0.1", 0), partial(_Handler, self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def listing(self) -> dict[str, Any]:
        return {
            "id": REPOSITORY,
            "modelId": REPOSITORY,
            "sha": COMMIT,
            "tags": ["license:gemma"],
            "cardData": {"license": "gemma"},
            "siblings": [_sibling(name, data) for name, data in self.files.items()],
        }

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


def _sibling(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_blob_id(data)}
    if name.endswith(".safetensors"):
        entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if refusal := self._refusal(path):
            self._send(refusal[0], json.dumps({"error": refusal[1]}).encode(), {"X-Error-Code": refusal[1]})
        elif path.startswith(f"/api/models/{REPOSITORY}"):
            self._send(200, json.dumps(self.hub.listing()).encode())
        else:
            self._send_file(path.partition(f"/resolve/{COMMIT}/")[2])

    def do_HEAD(self) -> None:
        self.do_GET()

    def _refusal(self, path: str) -> tuple[int, str] | None:
        token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        if token and token != RIGHT:
            return 401, "InvalidToken"
        if REPOSITORY not in path:
            return 401, "RepoNotFound"
        if "/revision/" in path and not path.endswith(("/main", COMMIT)):
            return 404, "RevisionNotFound"
        if self.hub.gated and token != RIGHT:
            return 403, "GatedRepo"
        return None

    def _send_file(self, name: str) -> None:
        if name not in self.hub.files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        if name.endswith(".safetensors") and "?link=" not in self.path:
            self.hub.links += 1
            self._send(302, b"", {"Location": f"{self.path}?link={self.hub.links}"})
            return
        data, status, headers = self.hub.files[name], 200, {}
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range") or "")
        if asked and self.hub.ranges:
            start, end = int(asked[1]), int(asked[2])
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            data, status = data[start : end + 1], 206
        fault = self.hub.faults.pop(0) if self.hub.faults else None
        time.sleep(self.hub.pause_s)
        if fault == "stall":
            self.hub.closing.wait(60)
            return
        if fault == "expired":
            self._send(403, b"<Error>AccessDenied: Request has expired</Error>")
            return
        if fault and fault.isdigit():
            self._send(int(fault), b"", {"Retry-After": "0"})
            return
        if fault == "flip":
            data = bytes([data[0] ^ 1]) + data[1:]
        if fault == "more":
            data += b"x"
        self._send(status, data, headers, cut=fault == "cut", counted=name)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, *, cut: bool = False, counted: str = ""
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            body = body[: len(body) // 2] if cut else body
            for start in range(0, len(body), _CHUNK):
                self.wfile.write(body[start : start + _CHUNK])
                if counted:
                    self.hub.downloaded[counted] += len(body[start : start + _CHUNK])
        self.close_connection = self.close_connection or cut

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def running_hub(files: dict[str, bytes]) -> Iterator[Hub]:
    hub = Hub(files)
    try:
        yield hub
    finally:
        hub.close()

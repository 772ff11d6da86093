"""A bucket and a hub on loopback that are not the limit: headers from Python, bytes from the kernel (sendfile).

It answers what gcsfs, pyarrow, huggingface_hub and this project ask for a directory of files. A `Limit` makes it slower: for
all connections together, as hosts share a bucket's bandwidth, or for each connection on its own, as with a distant server.
"""

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

BUCKET = "models"
REPOSITORY = "org/model"
COMMIT = "0" * 40
_CHUNK_BYTES = 1024**2


@dataclass(frozen=True)
class Limit:
    """Bytes per second; None is no limit."""

    all_connections: float | None = None
    each_connection: float | None = None


@contextmanager
def serving(root: Path, limit: Limit = Limit()) -> Iterator[str]:
    """The server's address, in a process of its own."""
    mine, its = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_serve, args=(root, limit, its), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{mine.recv()}"
    finally:
        process.terminate()
        process.join()


def _serve(root: Path, limit: Limit, parent: Connection) -> None:
    shared = Meter(limit.all_connections)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, root, shared, limit.each_connection))
    server.daemon_threads = True
    parent.send(server.server_port)
    server.serve_forever()


class Meter:
    """Lets bytes through at a rate, counted over all threads."""

    def __init__(self, bytes_per_s: float | None) -> None:
        self._bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._free_at = 0.0

    def wait_for(self, size_bytes: int) -> None:
        if self._bytes_per_s is None:
            return
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + size_bytes / self._bytes_per_s
            until = self._free_at
        time.sleep(max(0.0, until - time.monotonic()))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, root: Path, shared: Meter, each: float | None, *arguments: Any) -> None:
        self._root, self._meters = root, (shared, Meter(each))
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            sizes = {path.name: path.stat().st_size for path in self._files()}
            self._json([{"type": "file", "path": name, "size": size, "oid": name} for name, size in sizes.items()])
        elif path.startswith(f"/api/models/{REPOSITORY}"):
            self._json({"id": REPOSITORY, "sha": COMMIT, "siblings": [{"rfilename": path.name} for path in self._files()]})
        elif path == f"/storage/v1/b/{BUCKET}/o":
            self._json({"kind": "storage#objects", "items": [self._object(path.name) for path in self._files()]})
        elif path.startswith(f"/storage/v1/b/{BUCKET}/o/") and "alt=media" not in self.path:
            name = path.partition("/o/")[2]
            self._json(self._object(name) if (self._root / name).is_file() else None)
        elif path.startswith(f"/storage/v1/b/{BUCKET}"):
            self._file(path.partition("/o/")[2]) if "/o/" in path else self._json({"name": BUCKET, "id": BUCKET})
        else:
            self._file(path.rpartition("/")[2])

    def do_HEAD(self) -> None:
        self.do_GET()

    def _files(self) -> list[Path]:
        return sorted(path for path in self._root.iterdir() if path.is_file())

    def _object(self, name: str) -> dict[str, Any]:
        size = str((self._root / name).stat().st_size)
        stamp = "2026-01-01T00:00:00.000Z"
        metadata = {"kind": "storage#object", "bucket": BUCKET, "name": name, "size": size, "generation": "1"}
        return {**metadata, "id": name, "timeCreated": stamp, "updated": stamp, "storageClass": "STANDARD"}

    def _json(self, value: Any) -> None:
        body = json.dumps(value or {"error": {"code": 404, "message": "not here"}}).encode()
        self.send_response(200 if value is not None else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, name: str) -> None:
        path = self._root / name
        if not path.is_file():
            self._json(None)
            return
        size = path.stat().st_size
        start, end = 0, size - 1
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range") or ""):
            start, end = int(asked[1]), min(int(asked[2] or size - 1), size - 1)
        self.send_response(206 if asked else 200)
        self.send_header("content-length", str(end - start + 1))
        self.send_header("content-range", f"bytes {start}-{end}/{size}")
        self.send_header("accept-ranges", "bytes")
        self.send_header("etag", f'"{name}"')
        self.send_header("x-repo-commit", COMMIT)
        self.send_header("x-goog-generation", "1")
        self.end_headers()
        if self.command == "GET":
            self.wfile.flush()
            self._send(path, start, end + 1)

    def _send(self, path: Path, start: int, end: int) -> None:
        with path.open("rb") as file:
            while start < end:
                count = min(_CHUNK_BYTES, end - start)
                for meter in self._meters:
                    meter.wait_for(count)
                start += os.sendfile(self.connection.fileno(), file.fileno(), start, count)

    def log_message(self, *_: Any) -> None:
        pass

"""A Cloud Storage bucket on loopback: the registry's emulator, with several requests at once, a count of bytes, and faults."""

import io
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

from tests.perf.weights.server import Meter
from tests.weights.hub import QuietServer

NAME = "models"
_PIECE_BYTES = 64 * 1024


class Bucket:
    """`downloaded` counts bytes by object. `faults` are taken by the next downloads, one each: stall, cut, flip or a status."""

    def __init__(self) -> None:
        self.storage = Storage(use_memory_fs=True)
        self.storage.create_bucket(NAME, {"kind": "storage#bucket", "id": NAME, "name": NAME, "location": "US-EAST5"})
        self.downloaded: Counter[str] = Counter()
        self.faults: list[str] = []
        self.meter = Meter(None)
        self._server = QuietServer(("127.0.0.1", 0), partial(_Handler, self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def objects(self) -> dict[str, bytes]:
        listed = self.storage.objects.get(NAME, {})
        return {name: self.storage.get_file(NAME, name) for name in listed}

    def flip_a_bit(self, name: str, at: int) -> None:
        """Change an object's content but not its metadata, as a failing disk does."""
        path = self.storage._object_path(NAME, name)
        data = bytearray(self.storage._store.read_bytes(path))
        data[at] ^= 1
        self.storage._store.write_bytes(path, bytes(data))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(RequestHandler):
    wfile: Any
    protocol_version = "HTTP/1.1"
    _one_at_a_time = threading.Lock()

    def __init__(self, bucket: Bucket, *arguments: Any) -> None:
        self.bucket = bucket
        super().__init__(bucket.storage, *arguments)

    def do_GET(self) -> None:  # noqa: N802 - the base class's name
        if not self.path.startswith("/download/"):
            with self._one_at_a_time:
                super().do_GET()
            return
        fault = self.bucket.faults.pop(0) if self.bucket.faults else None
        if fault == "stall":
            time.sleep(30)
        if fault and fault.isdigit():
            self.send_response(int(fault))
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        real, self.wfile = self.wfile, io.BytesIO()
        with self._one_at_a_time:
            super().do_GET()
        answer, self.wfile = self.wfile.getvalue(), real
        self._send(answer, fault)

    def _send(self, answer: bytes, fault: str | None) -> None:
        head, _, body = answer.partition(b"\r\n\r\n")
        name = unquote(urlsplit(self.path).path.partition("/o/")[2])
        if fault == "flip":
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault == "cut":
            self.close_connection = True
            body = body[: len(body) // 2]
        self.bucket.downloaded[name] += len(body)
        self.wfile.write(head + b"\r\n\r\n")
        for start in range(0, len(body), _PIECE_BYTES):
            piece = body[start : start + _PIECE_BYTES]
            self.bucket.meter.wait_for(len(piece))
            self.wfile.write(piece)

    def do_POST(self) -> None:  # noqa: N802
        with self._one_at_a_time:
            super().do_POST()

    def do_PUT(self) -> None:  # noqa: N802
        with self._one_at_a_time:
            super().do_PUT()

    def do_DELETE(self) -> None:  # noqa: N802
        with self._one_at_a_time:
            super().do_DELETE()


def _read_multipart(handler: Any, query: Any, original: Any = emulator._read_data) -> Any:
    """The emulator reads an upload as it would a mail, and so drops a last byte that is a carriage return."""
    if not handler.headers.get("Content-Type", "").startswith("multipart/related"):
        return original(handler, query)
    raw = emulator._read_raw_data(handler)
    _, meta, content = raw.split(b"--==0==\n", 2)
    kind, _, data = content.partition(b"\n\n")
    return {
        "meta": json.loads(meta.partition(b"\n\n")[2]),
        "content": data.removesuffix(b"\n--==0==--"),
        "content-type": kind.decode().partition(": ")[2],
    }


emulator._read_data = _read_multipart


@contextmanager
def running_bucket() -> Iterator[Bucket]:
    bucket = Bucket()
    try:
        yield bucket
    finally:
        bucket.close()

"""A server of chats and completions on a real socket, with faults that a test sets, and a record of what it was asked."""

import contextlib
import json
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class BatchServer:
    """Answers each request with its own text, reversed. `busy` and `faults` are taken by the next requests, one each.

    A fault is a status, with headers if it is a pair, or `cut`: the connection is closed instead of an answer.
    """

    def __init__(self, port: int = 0) -> None:
        self.asked: Counter[str] = Counter()
        self.open = self.max_open = 0
        self.room: int | None = None
        """Requests at once, beyond which the server answers 429."""
        self.faults: deque[Any] = deque()
        self.always: dict[str, Any] = {}
        """Faults by the text of a request, for all of its tries."""
        self.keys: set[str] | None = None
        self.seen_keys: set[str | None] = set()
        self.answer_s = 0.0
        self.bodies: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self._http = _Http(("127.0.0.1", port), _Handler)
        self._http.batch = self
        self.port = self._http.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        """Go away, with all connections."""
        self._http.shutdown()
        self._http.server_close()
        for connection in list(self._http.connections):
            with contextlib.suppress(OSError):
                connection.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def running(port: int = 0) -> Iterator[BatchServer]:
    server = BatchServer(port)
    try:
        yield server
    finally:
        server.close()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    batch: BatchServer

    def __init__(self, *arguments: Any) -> None:
        self.connections: set[_Handler] = set()
        super().__init__(*arguments)

    def handle_error(self, *_: Any) -> None:
        """Say nothing of a client that was killed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self)

    def finish(self) -> None:
        self.server.connections.discard(self)
        super().finish()

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        self._send(200 if self._has_key() else 401, {"object": "list", "data": [{"id": "reverse", "object": "model"}]})

    def do_POST(self) -> None:
        batch, body = self.server.batch, json.loads(self.rfile.read(int(self.headers["content-length"])))
        chat = self.path == "/v1/chat/completions"
        text = body["messages"][-1]["content"] if chat else body["prompt"]
        with batch.lock:
            batch.open += 1
            full = batch.room is not None and batch.open > batch.room
            batch.max_open = max(batch.max_open, batch.open)
            fault = batch.always.get(text) or (batch.faults.popleft() if batch.faults else None) or (429 if full else None)
            if fault is None:
                batch.asked[text] += 1
                batch.bodies.append(body)
        try:
            if fault is None:
                time.sleep(batch.answer_s)
        finally:
            with batch.lock:
                batch.open -= 1
        if not self._has_key():
            self._send(401, _error(401))
        elif fault == "cut":
            self.close_connection = True
        elif fault:
            status, headers = fault if isinstance(fault, tuple) else (fault, {})
            self._send(status, _error(status), headers)
        else:
            self._send(200, _answer(chat, text, body), {"x-request-id": f"request-{text if text.isascii() else 'other'}"})

    def _has_key(self) -> bool:
        self.server.batch.seen_keys.add(self.headers["authorization"])
        keys = self.server.batch.keys
        return keys is None or self.headers["authorization"] in {f"Bearer {key}" for key in keys}

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body, ensure_ascii=False).encode(errors="replace")
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _error(status: int) -> dict[str, Any]:
    return {"error": {"message": f"fault {status}", "type": "fault", "param": None, "code": status}}


def _answer(chat: bool, text: str, body: dict[str, Any]) -> dict[str, Any]:
    message = {"message": {"role": "assistant", "content": text[::-1]}} if chat else {"text": text[::-1]}
    return {
        "id": "answer",
        "object": "chat.completion" if chat else "text_completion",
        "created": 1_790_000_000,
        "model": body["model"],
        "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None, **message}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }

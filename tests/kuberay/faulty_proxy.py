"""A proxy in front of the API server that can answer badly and cut connections; it counts what passes.

It speaks HTTP/1.1, one request per connection, and passes upgrades (port-forward) through.
"""

import asyncio
import json
import ssl
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.parser import Parser
from fnmatch import fnmatchcase
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml

from emulation.kubernetes.nodes.api import Json, client_context
from tests.kuberay.plane import ControlPlane

_PIECE = 65536
_START_S = 10
_REASONS = {409: "Conflict", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}


@dataclass(frozen=True)
class Request:
    """`verb` is the HTTP method; `path` is without the query."""

    verb: str
    path: str


@dataclass
class Fault:
    """What happens to the next `left` requests whose verb and path match; patterns are those of a shell.

    `status` is answered without asking the API server; `cut` closes the connection instead, `lose_answer` does so after the API
    server has done what was asked.
    """

    kind: Literal["status", "cut", "lose_answer"]
    left: int
    verb: str
    path: str
    status: int = 200
    retry_after: int | None = None
    body: Json | None = None

    def meets(self, request: Request) -> bool:
        return self.left > 0 and fnmatchcase(request.verb, self.verb) and fnmatchcase(request.path, self.path)


class FaultyProxy:
    """Use `running_faulty_proxy`. Without faults it changes nothing."""

    def __init__(self, plane: ControlPlane, kubeconfig: Path, directory: Path) -> None:
        self.requests: list[Request] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        config = yaml.safe_load(kubeconfig.read_text())
        self._upstream_port = plane.port
        self._as_user = client_context(config)
        self._serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._serving.load_cert_chain(plane.layout.serving.certificate, plane.layout.serving.key)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="faulty proxy", daemon=True).start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._serving))
        self.port: int = self._server.sockets[0].getsockname()[1]
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{self.port}"
        self.kubeconfig = directory / "faulty-proxy.kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(config))

    def answer(self, status: int, times: int = 1, *, verb: str = "*", path: str = "*", retry_after: int | None = None) -> None:
        """Answer the next requests with an error of Kubernetes: 409, 429 (with Retry-After), 500, 503."""
        self._add(Fault("status", times, verb, path, status, retry_after))

    def replace(self, body: Json, *, path: str, verb: str = "GET", times: int = 10**9) -> None:
        """Answer with this instead, for example to /version."""
        self._add(Fault("status", times, verb, path, body=body))

    def cut(self, times: int = 1, *, verb: str = "*", path: str = "*", after_it_is_done: bool = False) -> None:
        """Close the connection without an answer; with `after_it_is_done` the API server has got the request all the same."""
        self._add(Fault("lose_answer" if after_it_is_done else "cut", times, verb, path))

    def heal(self) -> None:
        """No more faults."""
        with self._lock:
            self._faults.clear()

    def count(self, verb: str = "*", path: str = "*") -> int:
        """Requests so far that match."""
        return sum(fnmatchcase(r.verb, verb) and fnmatchcase(r.path, path) for r in list(self.requests))

    def close(self) -> None:
        for last in (self._server.close, self._loop.stop):
            self._loop.call_soon_threadsafe(last)

    def _run(self, work: Coroutine[Any, Any, asyncio.Server]) -> asyncio.Server:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_START_S)

    def _add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def _meet(self, request: Request) -> Fault | None:
        """Note a request, and take the fault that it meets."""
        with self._lock:
            self.requests.append(request)
            fault = next((fault for fault in self._faults if fault.meets(request)), None)
            if fault:
                fault.left -= 1
            return fault

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await self._answer_one(reader, writer)
        writer.close()

    async def _answer_one(self, reader: StreamReader, writer: StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, _, fields = head.partition("\r\n")
        headers = Parser().parsestr(fields)
        fault = self._meet(_request(line))
        if fault and fault.kind == "cut":
            return
        body = await reader.readexactly(int(headers.get("Content-Length", 0)))
        if fault and fault.kind == "status":
            writer.write(_error(fault))
            await writer.drain()
            return
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._upstream_port, ssl=self._as_user)
        upgrade = "Upgrade" in headers
        to_server.write((head if upgrade else _closing(head)).encode() + body)
        if upgrade:
            await asyncio.gather(_copy(reader, to_server), _copy(from_server, writer))
        else:
            await _copy(from_server, writer, fault)
        to_server.close()


def _request(line: str) -> Request:
    method, target, _ = line.split(" ")
    return Request(method, urlsplit(target).path)


def _error(fault: Fault) -> bytes:
    status = HTTPStatus(fault.status)
    reason = {
        "status": "Failure",
        "reason": _REASONS.get(fault.status, ""),
        "message": "a fault of the test's proxy",
        "code": fault.status,
    }
    details = {"details": {"retryAfterSeconds": fault.retry_after}} if fault.retry_after is not None else {}
    body = json.dumps(fault.body or {"kind": "Status", "apiVersion": "v1", "metadata": {}, **reason, **details}).encode()
    retry = f"Retry-After: {fault.retry_after}\r\n" if fault.retry_after is not None else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{retry}"
    )
    return f"{head}Connection: close\r\n\r\n".encode() + body


def _closing(head: str) -> str:
    """The same request, as the only one of its connection."""
    kept = [line for line in head.split("\r\n") if line and not line.lower().startswith("connection:")]
    return "\r\n".join([*kept, "Connection: close", "", ""])


async def _copy(source: StreamReader, target: StreamWriter, fault: Fault | None = None) -> None:
    while piece := await source.read(_PIECE):
        if fault and fault.kind == "lose_answer":
            return
        target.write(piece)
        await target.drain()
    target.close()


@contextmanager
def running_faulty_proxy(plane: ControlPlane, directory: Path, kubeconfig: Path | None = None) -> Iterator[FaultyProxy]:
    """A proxy for one user (the administrator by default): clients use `proxy.kubeconfig`."""
    proxy = FaultyProxy(plane, kubeconfig or plane.kubeconfig, directory)
    try:
        yield proxy
    finally:
        proxy.close()

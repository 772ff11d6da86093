"""The HTTP client of the load: raw asyncio connections with keep-alive, one request at a time on each, streams parsed in place.

General clients take 30 to 200 microseconds for each event of a stream; at 1,000 streams a core is then the limit before the
server is (docs/benchmarks.md has the figures).
"""

import asyncio
import ssl
from functools import partial
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import httptools
import msgspec

from benchmarks.serving.events import EventReader
from benchmarks.serving.request import Request, Response

_IDLE_S = 2.0  # shorter than any server's own limit (uvicorn: 5 s), so that none closes a connection under a new request
_MAX_DETAIL = 300


class Client:
    """Keeps connections to one path of a server. `opened` counts those made."""

    def __init__(self, url: str, path: str, api_key: str | None, *, timeout_s: float) -> None:
        """Prepare for a server's address such as `http://127.0.0.1:8000` and a path such as `/v1/completions`."""
        parts = urlsplit(url)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._tls else 80)
        lines = [f"POST {parts.path.rstrip('/')}{path} HTTP/1.1", f"host: {parts.netloc}", "content-type: application/json"]
        lines += ["accept: text/event-stream"] + ([f"authorization: Bearer {api_key}"] if api_key else [])
        self._head = "\r\n".join([*lines, "content-length: "]).encode()
        self._timeout_s = timeout_s
        self._idle: list[_Connection] = []
        self.opened = 0

    async def send(self, request: Request, intended: float, *, keep_text: bool = False) -> Response:
        """Send one request and follow its stream to the end. Never raises for what the server or the network does."""
        response = Response(request, intended, begun=perf_counter())
        loop = asyncio.get_running_loop()
        try:
            connection = self._idle_connection()
            if connection is None:
                connection = await asyncio.wait_for(self._open(), self._timeout_s)
        except (OSError, TimeoutError) as error:
            response.error, response.ended = f"no connection: {type(error).__name__}", perf_counter()
            return response
        done: asyncio.Future[None] = loop.create_future()
        connection.begin(response, keep_text, done)
        deadline = loop.call_later(self._timeout_s, connection.fail, "timeout")
        try:
            await done
        finally:
            deadline.cancel()
            if connection.reusable:
                connection.idle_since = perf_counter()
                self._idle.append(connection)
            else:
                connection.transport.abort()
        return response

    def close(self) -> None:
        for connection in self._idle:
            connection.transport.close()
        self._idle.clear()

    def _idle_connection(self) -> "_Connection | None":
        oldest = perf_counter() - _IDLE_S
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing() and connection.idle_since > oldest:
                return connection
            connection.transport.close()
        return None

    async def _open(self) -> "_Connection":
        self.opened += 1
        make = partial(_Connection, self._head)
        _, connection = await asyncio.get_running_loop().create_connection(make, self._host, self._port, ssl=self._tls)
        return connection


class _Connection(asyncio.Protocol):
    def __init__(self, head: bytes) -> None:
        self._head = head
        self.transport: Any = None
        self.reusable = False
        self.idle_since = 0.0
        self._response: Response | None = None

    def begin(self, response: Response, keep_text: bool, done: "asyncio.Future[None]") -> None:
        """Write the request and read its response; `done` is set at the end of it, good or bad."""
        self._response, self._keep_text, self._done = response, keep_text, done
        self._parser = httptools.HttpResponseParser(self)
        self._reader = EventReader(response, keep_text=keep_text)
        self._status, self.reusable, self._cancel_after = 0, False, response.request.cancel_after
        body = response.request.body
        response.sent = perf_counter()
        self.transport.write(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))

    def fail(self, kind: str) -> None:
        if self._response is not None:
            self._end(kind)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._response is not None:
            lost = f"connection lost: {type(exc).__name__}" if exc else "connection lost"
            self._end(None if self._response.complete else lost)

    def data_received(self, data: bytes) -> None:
        if self._response is None:
            return
        self._now = perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            # httptools wraps what a callback raised
            malformed = isinstance(error.__context__, msgspec.DecodeError)
            self.fail("malformed event" if malformed else "malformed HTTP")

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self._response is None:
            return
        if self._status == 200:
            self._reader.feed(body, self._now)
            if self._cancel_after and len(self._response.times) >= self._cancel_after:
                self._response.cancelled = True
                self._end(None)
        elif len(self._response.detail) < _MAX_DETAIL:
            self._response.detail += body[:_MAX_DETAIL].decode(errors="replace")

    def on_message_complete(self) -> None:
        if self._response is None:
            return
        self.reusable = self._parser.should_keep_alive()
        if self._status != 200:
            self._end(f"HTTP {self._status}")
        elif self._response.error:
            self._end(self._response.error)
        else:
            self._end(None if self._response.complete else "stream without its end")

    def _end(self, error: str | None) -> None:
        assert self._response is not None
        self._response.error, self._response.ended = error, perf_counter()
        self._response.text = self._reader.text
        self._response = None
        self.reusable = self.reusable and error in (None, f"HTTP {self._status}")
        if not self._done.done():
            self._done.set_result(None)

"""A raw asyncio server of OpenAI streams whose timing is set and whose faults are asked for: what a load test must recover.

    python -m tests.benchmarks.known_server --ttft 0.2 --tpot 0.02      prints its port

It writes whole steps: all streams whose next token is due in one millisecond get it in one pass over them. `GET /stats` says
how late it was itself, so that a test knows whether the server was the limit.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import httptools
import httpx
import uvloop

ROOT = Path(__file__).resolve().parents[2]
_TICK_S = 0.001


@dataclass(frozen=True)
class Timing:
    """Seconds, and which requests (every so-manieth one, 0 for none) go wrong and how."""

    ttft: float = 0.1
    tpot: float = 0.01
    error_every: int = 0
    """Answered with status 503."""
    drop_every: int = 0
    """The connection breaks after half of the tokens."""
    stall_every: int = 0
    stall: float = 0.0
    """Half of the tokens come `stall` seconds late."""
    miscount_every: int = 0
    """The usage says one token less than came."""
    tokens_per_event: int = 1
    text: str = "word "


class Stream:
    """One answer on its way."""

    def __init__(self, connection: "Connection", number: int, body: dict[str, Any], chat: bool) -> None:
        self.connection, self.number = connection, number
        self.left: int = body.get("max_tokens") or body.get("max_completion_tokens") or 16
        self.asked, self.chat = self.left, chat
        self.prompt = len(str(body.get("prompt") or body.get("messages")).split())
        self.model = body["model"]
        self.due = 0.0


class KnownServer:
    """Keeps all streams by the tick in which their next token is due."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self.due: defaultdict[int, list[Stream]] = defaultdict(list)
        self.started = self.finished = self.tokens = self.most = self.now = 0
        self.late_s = self.latest_s = 0.0
        self._frames: dict[bool, bytes] = {chat: _frame(_event(chat, timing.text)) for chat in (False, True)}

    async def run(self) -> None:
        """Write what is due, every millisecond."""
        next_tick = int(time.perf_counter() / _TICK_S)
        while True:
            now = int(time.perf_counter() / _TICK_S)
            for tick in range(next_tick, now + 1):
                for stream in self.due.pop(tick, ()):
                    self._step(stream)
            next_tick = now + 1
            await asyncio.sleep(next_tick * _TICK_S - time.perf_counter())

    def begin(self, stream: Stream, arrived: float) -> None:
        self.started, self.now = self.started + 1, self.now + 1
        self.most = max(self.most, self.now)
        self._schedule(stream, arrived + self.timing.ttft)

    def end(self) -> None:
        self.finished, self.now = self.finished + 1, self.now - 1

    def stats(self) -> dict[str, float]:
        """Means and extremes of how late tokens were written, in seconds; and counts."""
        late = self.late_s / max(self.tokens, 1)
        return {
            "late_mean_s": late,
            "late_max_s": self.latest_s,
            "tokens": self.tokens,
            "started": self.started,
            "finished": self.finished,
            "most": self.most,
        }

    def _schedule(self, stream: Stream, due: float) -> None:
        stream.due = due
        self.due[int(due / _TICK_S)].append(stream)

    def _step(self, stream: Stream) -> None:
        late = time.perf_counter() - stream.due
        self.late_s += late
        self.latest_s = max(self.latest_s, late)
        self.tokens += 1
        timing, half = self.timing, stream.asked // 2
        if stream.connection.transport is None or stream.connection.transport.is_closing():
            return self.end()
        if _every(timing.drop_every, stream.number) and stream.left == half:
            stream.connection.transport.close()
            return self.end()
        tokens = min(timing.tokens_per_event, stream.left)
        stream.left -= tokens
        frame = self._frames[stream.chat]
        if stream.left:
            stream.connection.transport.write(frame)
            stall = timing.stall if _every(timing.stall_every, stream.number) and stream.left == half else 0.0
            return self._schedule(stream, stream.due + tokens * timing.tpot + stall)
        told = stream.asked - _every(timing.miscount_every, stream.number)
        stream.connection.transport.write(frame + _last_frames(stream, told))
        stream.connection.answered()
        return self.end()


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, one request at a time."""

    def __init__(self, server: KnownServer) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self.transport: Any = None  # uvloop's, which has no asyncio.Transport among its bases
        self._path, self._body = b"", b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path, self._body = url, b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        arrived = time.perf_counter()
        if self._path.endswith(b"/completions"):
            self._generate(arrived)
        elif self._path.endswith(b"/stats"):
            self._send(200, self._server.stats())
        elif self._path.endswith(b"/tokenize"):
            self._send(200, {"count": len(json.loads(self._body)["prompt"].split())})
        elif self._path.endswith(b"/models"):
            self._send(200, {"object": "list", "data": [{"id": "known", "object": "model", "owned_by": "x", "created": 0}]})
        else:
            self._send(200 if self._path == b"/health" else 404, {})

    def answered(self) -> None:
        """The stream is whole."""

    def _generate(self, arrived: float) -> None:
        stream = Stream(self, self._server.started, json.loads(self._body), b"/chat/" in self._path)
        if _every(self._server.timing.error_every, stream.number):
            self._server.started += 1
            return self._send(503, {"error": {"message": "known fault", "type": "unavailable", "param": None, "code": 503}})
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        return self._server.begin(stream, arrived)

    def _send(self, status: int, body: Any) -> None:
        text = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n"
        self.transport.write(head.encode() + text)


def _every(period: int, number: int) -> bool:
    return bool(period) and number % period == period - 1


def _event(chat: bool, text: str | None, usage: dict[str, int] | None = None) -> bytes:
    """An event as long as vLLM's."""
    choice = {"index": 0, "delta": {"content": text}} if chat else {"index": 0, "text": text}
    body = {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-0123456789abcdef0123456789abcdef",
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": 1790000000,
        "model": "known",
        "choices": [] if usage else [{**choice, "logprobs": None, "finish_reason": None, "token_ids": None}],
        "usage": usage,
    }
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def _last_frames(stream: Stream, told: int) -> bytes:
    usage = {"prompt_tokens": stream.prompt, "completion_tokens": told, "total_tokens": stream.prompt + told}
    return _frame(_event(stream.chat, None, usage)) + _frame(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _frame(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@contextmanager
def running(timing: Timing) -> Iterator[str]:
    """The server in a process of its own for the block's time; yields its address."""
    command = [sys.executable, "-m", "tests.benchmarks.known_server"]
    for name, value in asdict(timing).items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait(10)


def stats(url: str) -> dict[str, float]:
    return dict(httpx.get(f"{url}/stats").json())


async def _serve(timing: Timing, port: int) -> None:
    server = KnownServer(timing)
    listening = await asyncio.get_running_loop().create_server(lambda: Connection(server), "127.0.0.1", port, backlog=4096)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await server.run()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    for field in fields(Timing):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    options = vars(parser.parse_args())
    port = options.pop("port")
    uvloop.run(_serve(Timing(**options), port))


if __name__ == "__main__":
    main()

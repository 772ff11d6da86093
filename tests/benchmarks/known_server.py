"""A raw asyncio server of OpenAI streams whose timing is set and whose faults are asked for: what a load test must recover.

    python -m tests.benchmarks.known_server --ttft 0.2 --tpot 0.02      prints its port

What is true is what is set: the first event is due after `ttft`, and each later one `tpot` for each of its tokens after the one
before. Nothing is computed here as the client computes it, and no code is shared. All streams whose next event is due in one
millisecond get it in one pass. `GET /stats` reports how late it really was: a busy machine delays it, too.
"""

import argparse
import asyncio
import json
import math
import os
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import httptools
import uvloop

from tests.benchmarks.known import Timing

_TICK_S = 0.001


class Stream:
    """One answer on its way."""

    def __init__(self, connection: "Connection", number: int, body: dict[str, Any], timing: Timing) -> None:
        self.connection, self.number = connection, number
        self.chat = "messages" in body
        self.requested: int = body.get("max_tokens") or body.get("max_completion_tokens") or 16
        self.left = max(1, self.requested * (100 - timing.withheld_percent) // 100)
        self.prompt = _prompt_tokens(body)
        self.events = 0
        self.due = 0.0


def _prompt_tokens(body: dict[str, Any]) -> int:
    """A word is a token; the template adds five to a chat and four to each message, one to a text."""
    if "messages" not in body:
        prompt = body["prompt"]
        return 1 + len((prompt if isinstance(prompt, str) else prompt[0]).split())
    contents = [message["content"] for message in body["messages"]]
    texts = [each if isinstance(each, str) else " ".join(part.get("text", "") for part in each) for each in contents]
    return 5 + sum(4 + len(text.split()) for text in texts)


class KnownServer:
    """Keeps all streams by the tick in which their next token is due."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self.due: defaultdict[int, list[Stream]] = defaultdict(list)
        self.tokens = self.max_in_flight = self.now = self.number = self.prompt_tokens = self.streams = 0
        self.next_tick = int(time.perf_counter() / _TICK_S)
        self.late_s = array("d")
        self.began = self.ended = 0.0
        self.faults: Counter[str] = Counter()
        self._frames = {
            kind: _frame(_event(kind, timing.text * timing.tokens_per_event)) for kind in ("text", "chat", "reasoning")
        }
        self._blanks = {kind: _frame(_event(kind, " ")) for kind in ("text", "chat", "reasoning")}

    async def run(self) -> None:
        """Write what is due, every millisecond."""
        while True:
            now = int(time.perf_counter() / _TICK_S)
            while self.next_tick <= now:
                self.next_tick += 1
                for stream in self.due.pop(self.next_tick - 1, ()):
                    self._step(stream)
            await asyncio.sleep(self.next_tick * _TICK_S - time.perf_counter())

    def begin(self, stream: Stream, arrived: float) -> None:
        self.now += 1
        self.max_in_flight = max(self.max_in_flight, self.now)
        self.began = self.began or arrived
        if stream.chat:
            stream.connection.transport.write(_frame(_event("chat", "")))  # opens the message, and is no token
        self._schedule(stream, arrived + self.timing.ttft)

    def stats(self) -> dict[str, Any]:
        """What was really sent since the last time, in seconds of this process's clock."""
        stats = {
            "late_s": _percentiles(self.late_s),
            "elapsed_s": self.ended - self.began,
            "tokens": self.tokens,
            "streams": self.streams,
            "max_in_flight": self.max_in_flight,
            "faults": self.faults,
        }
        self.late_s = array("d")
        self.began, self.tokens, self.streams, self.faults = 0.0, 0, 0, Counter()
        return stats

    def _schedule(self, stream: Stream, due: float) -> None:
        stream.due = due
        self.due[max(math.ceil(due / _TICK_S), self.next_tick)].append(stream)

    def _step(self, stream: Stream) -> None:
        timing, half, transport = self.timing, stream.requested // 2, stream.connection.transport
        if transport is None or transport.is_closing():
            self.now -= 1
            return
        if _every(timing.drop_every, stream.number) and stream.left == half:
            self.faults["dropped"] += 1
            self.now -= 1
            return transport.close()
        self.late_s.append(time.perf_counter() - stream.due)
        blank = bool(timing.blank) and not stream.events
        tokens = 1 if blank else min(timing.tokens_per_event, stream.left)
        frame = self._frame(stream, tokens, blank)
        stream.left -= tokens
        stream.events += 1
        self.tokens += tokens
        if not stream.left:
            return self._finish(stream, frame)
        stream.connection.write_now(frame)
        stalls = _every(timing.stall_every, stream.number) and stream.left == half
        self.faults["stalled"] += stalls
        next_event = min(timing.tokens_per_event, stream.left)
        return self._schedule(stream, stream.due + next_event * timing.tpot + stalls * timing.stall + blank * timing.blank)

    def _frame(self, stream: Stream, tokens: int, blank: bool) -> bytes:
        kind = "text" if not stream.chat else "reasoning" if stream.events < self.timing.reasoning else "chat"
        if blank:
            return self._blanks[kind]
        if tokens == self.timing.tokens_per_event:
            return self._frames[kind]
        return _frame(_event(kind, self.timing.text * tokens))

    def _finish(self, stream: Stream, frame: bytes) -> None:
        miscounts = _every(self.timing.miscount_every, stream.number)
        self.faults["miscounted"] += miscounts
        last = _last_frames(stream, stream.requested - miscounts, self.timing)
        stream.connection.transport.write(frame + last)
        self.ended = time.perf_counter()
        self.now -= 1
        self.streams += 1


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, one request at a time."""

    def __init__(self, server: KnownServer) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self.transport: Any = None  # uvloop's, which has no asyncio.Transport among its bases
        self._path, self._body = b"", b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._file = transport.get_extra_info("socket").fileno()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.transport = None

    def write_now(self, data: bytes) -> None:
        """Past the loop, which would take twice the time, where nothing waits to be written."""
        sent = 0
        if not self.transport.get_write_buffer_size():
            try:
                sent = os.write(self._file, data)
            except OSError:  # full, or the client has left: the transport's affair
                sent = 0
        if sent < len(data):
            self.transport.write(data[sent:])

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
            self._other()

    def _other(self) -> None:
        percent = self._server.timing.cached_percent
        if percent and self._path == b"/metrics":
            queries, label = self._server.prompt_tokens, '{engine="0",model_name="known"}'
            lines = [f"vllm:prefix_cache_queries_total{label} {queries}.0"]
            lines += [f"vllm:prefix_cache_hits_total{label} {queries * percent / 100}"]
            lines += [f"vllm:num_requests_running{label} {self._server.now}.0", f"vllm:num_requests_waiting{label} 0.0"]
            self._send_text(200, "\n".join(lines).encode())
        else:
            self._send(200 if self._path == b"/health" else 404, {})

    def _generate(self, arrived: float) -> None:
        server = self._server
        stream = Stream(self, server.number, json.loads(self._body), server.timing)
        server.number += 1
        server.prompt_tokens += stream.prompt
        if _every(server.timing.error_every, stream.number):
            server.faults["refused"] += 1
            status = server.timing.error_status
            return self._send(status, {"error": {"message": "known fault", "type": "x", "param": None, "code": status}})
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        return server.begin(stream, arrived)

    def _send(self, status: int, body: Any) -> None:
        self._send_text(status, json.dumps(body).encode())

    def _send_text(self, status: int, text: bytes) -> None:
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n"
        self.transport.write(head.encode() + text)


def _every(period: int, number: int) -> bool:
    return bool(period) and number % period == period - 1


def _event(kind: str, text: str | None, usage: dict[str, Any] | None = None) -> bytes:
    """An event as long as vLLM's. `kind`: a completion's text, a chat's content, or its reasoning."""
    delta = (
        {"role": "assistant", "content": ""}
        if text == ""
        else {"reasoning_content" if kind == "reasoning" else "content": text}
    )
    choice = {"index": 0, "text": text} if kind == "text" else {"index": 0, "delta": delta}
    body = {
        "id": f"{'cmpl' if kind == 'text' else 'chatcmpl'}-0123456789abcdef0123456789abcdef",
        "object": "text_completion" if kind == "text" else "chat.completion.chunk",
        "created": 1790000000,
        "model": "known",
        "choices": [] if usage else [{**choice, "logprobs": None, "finish_reason": None, "token_ids": None}],
        "usage": usage,
    }
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def _last_frames(stream: Stream, reported: int, timing: Timing) -> bytes:
    prompt = stream.prompt * timing.prompt_percent // 100
    usage: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": reported, "total_tokens": prompt + reported}
    if timing.cached_usage_percent >= 0:
        usage["prompt_tokens_details"] = {"cached_tokens": prompt * timing.cached_usage_percent // 100}
    return _frame(_event("text", None, usage)) + _frame(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _frame(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values) or [0.0]
    return {f"p{percent}": ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] for percent in (50, 90, 99)}


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

"""The guard's own work for a request and for each token of a stream, in microseconds of CPU time: no sockets, no engine."""

import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.guard.keyfile import change_keys, make_key, utc_now
from apps.guard.middleware import GuardMiddleware
from apps.guard.settings import GuardArgs, ReplicaGuard

_CHUNK = (
    b'data: {"id":"cmpl-8f2a6e5e0b0c4b6b8d0f6a2f1c9d7e3b","object":"text_completion","created":1732600000,'
    b'"model":"google/gemma-4-31B-it","choices":[{"index":0,"text":" word","logprobs":null,"finish_reason":null,'
    b'"stop_reason":null,"token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null}],"usage":null}\n\n'
)
"""An event as vLLM 0.29 writes it."""
_LAST = _CHUNK.replace(b'"finish_reason":null', b'"finish_reason":"length"')
_SHORT, _LONG = 1, 201
AT_ONCE, _TURNS = 512, 7


def open_settings(directory: Path) -> tuple[str, ReplicaGuard]:
    """(a key, the guard's settings): every limit and the audit in force, none of them reached."""
    text, id, entry = make_key({"name": "benchmark"}, utc_now())
    with change_keys(directory / "keys.json") as keys:
        keys[id] = entry
    section = {
        "keys_files": [str(directory / "keys.json")],
        "limits": {"requests_per_minute": 10**9, "tokens_per_minute": 10**9, "concurrent_requests": 2000, "max_tokens": 4000},
        "audit_file": str(directory / "audit.jsonl"),
    }
    return text, ReplicaGuard(args=GuardArgs.model_validate(section), capacity=1000, context_tokens=4096)


def own_cost(settings: ReplicaGuard, key: str, at_once: int = AT_ONCE) -> dict[str, float]:
    """`request_us` and `token_us` that the guard adds with so many streams at once; the median of turns with and without it.

    `stream_token_us` is the least that a token costs here without the guard, to compare with.
    """
    return asyncio.run(_measure(settings, key, at_once))


async def _measure(settings: ReplicaGuard, key: str, at_once: int) -> dict[str, float]:
    guard = GuardMiddleware(stream, settings)
    await _seconds(guard, key, _SHORT, 1)  # the key is hashed once
    request_s, token_s, bare_s = [], [], []
    for _ in range(_TURNS):
        seconds = {}
        for app in (guard, stream):
            seconds[app] = [await _seconds(app, key, tokens, at_once) for tokens in (_SHORT, _LONG)]
        short, long = (with_guard - without for with_guard, without in zip(seconds[guard], seconds[stream], strict=True))
        request_s.append(short)
        token_s.append((long - short) / (_LONG - _SHORT))
        bare_s.append((seconds[stream][1] - seconds[stream][0]) / (_LONG - _SHORT))
    guard.housekeeping.close()
    names = ("request_us", "token_us", "stream_token_us")
    return {name: 1e6 * statistics.median(turns) for name, turns in zip(names, (request_s, token_s, bare_s), strict=True)}


def request_of(key: str, tokens: int) -> tuple[Scope, bytes]:
    """A request for a stream and its body."""
    body = json.dumps({"model": "m", "prompt": "word " * 48, "max_tokens": tokens, "stream": True}).encode()
    headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")]
    return {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers, "tokens": tokens}, body


async def _seconds(app: ASGIApp, key: str, tokens: int, at_once: int) -> float:
    """Seconds of one request, on average."""
    scope, body = request_of(key, tokens)

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        assert message.get("status", 200) == 200, message

    async def client() -> None:
        for _ in range(AT_ONCE // at_once):
            await app(dict(scope), receive, send)

    start = time.process_time()  # the audit's thread counts too; what else runs on the machine does not
    await asyncio.gather(*(client() for _ in range(at_once)))
    return (time.process_time() - start) / (AT_ONCE // at_once * at_once)


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that answers with `scope["tokens"]` events, and the one that says why it ends."""
    await receive()
    headers: list[Any] = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(scope["tokens"]):
        await send({"type": "http.response.body", "body": _CHUNK, "more_body": True})
        await asyncio.sleep(0)  # the others' turn
    await send({"type": "http.response.body", "body": _LAST, "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

"""Streams at once against one server, and what its clients and its processor saw of it."""

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import psutil

from apps.common.errors import BundleError
from tests.perf.bare import Server
from tests.perf.guard.stopwatch import TIMES, percentile

_PROMPT_WORDS = 48
_WORDS = ("water", "stone", "river", "light", "engine", "copper", "winter", "garden", "letter", "window", "market", "bridge")


@dataclass(frozen=True)
class Load:
    """A number of streams at once, each client asking again as soon as its answer has ended."""

    name: str
    streams: int
    requests: int
    max_tokens: int
    """On average: half as much to half as much again, so that streams do not begin and end all together."""
    timed: bool = True
    """Whether the time in the guard is taken, by a stopwatch in the server that costs some throughput."""
    ramp_s: float = 0.0
    """Over which the clients begin."""


@dataclass(frozen=True)
class Figures:
    """One load: as a client sees it, and the time in the guard as the server does (None where it was not taken)."""

    ttft_p50_ms: float
    ttft_p99_ms: float
    output_tok_per_s: float
    cpu_us_per_token: float
    """CPU time of all the server's processes."""
    server_cores: float
    """Busy with it: a web server can use one."""
    client_cores: float
    """Busy with the load: near one, the client would be what is measured."""
    in_guard_p50_ms: float | None = None
    in_guard_p99_ms: float | None = None


@dataclass(frozen=True)
class Contender:
    """A server, and what it takes to keep it still while the other is measured."""

    server: Server
    model: str
    processes: Sequence[psutil.Process]
    admission: bool


async def run(load: Load, contender: Contender, key: str, seed: int) -> Figures:
    """One turn of a server. Raises `BundleError` or aiohttp's errors where a stream breaks off."""
    draw = random.Random(seed)
    lengths = [draw.randint(load.max_tokens // 2, load.max_tokens * 3 // 2) for _ in range(load.requests)]
    prompts = [f"{seed} {number} " + " ".join(draw.choices(_WORDS, k=_PROMPT_WORDS)) for number in range(load.requests)]
    waiting = list(zip(prompts, lengths, strict=True))
    ttft_s: list[float] = []

    async def client(http: aiohttp.ClientSession, begins_s: float) -> None:
        await asyncio.sleep(begins_s)
        while waiting:
            ttft_s.append(await _stream(http, contender, *waiting.pop()))

    connector = aiohttp.TCPConnector(limit=0)
    headers = {"authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(connector=connector, headers=headers, read_bufsize=2**20) as http:
        start, server_s, client_s = time.perf_counter(), _cpu_s(contender), time.process_time()
        await asyncio.gather(*(client(http, load.ramp_s * number / load.streams) for number in range(load.streams)))
        elapsed_s, server_s, client_s = (
            time.perf_counter() - start,
            _cpu_s(contender) - server_s,
            time.process_time() - client_s,
        )
        inside = await _stopwatch(http, contender) if load.timed and contender.admission else (None, None)
    return Figures(
        1000 * statistics.median(ttft_s),
        1000 * percentile(ttft_s, 99),
        sum(lengths) / elapsed_s,
        1e6 * server_s / sum(lengths),
        server_s / elapsed_s,
        client_s / elapsed_s,
        *inside,
    )


def _cpu_s(contender: Contender) -> float:
    times = [process.cpu_times() for process in contender.processes]
    return sum(spent.user + spent.system for spent in times)


async def _stream(http: aiohttp.ClientSession, contender: Contender, prompt: str, max_tokens: int) -> float:
    """Seconds to the first token. Chunks are only counted: whoever measures must not be what is measured."""
    body = {"model": contender.model, "prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True, "stream": True}
    start, first, ended = time.perf_counter(), None, b""
    async with http.post(f"{contender.server.url}/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for part in answer.content.iter_any():
            first = first or time.perf_counter()
            ended = part
    if first is None or not ended.endswith(b"[DONE]\n\n"):
        raise BundleError(f"{contender.server.name}: a stream broke off")
    return first - start


async def _stopwatch(http: aiohttp.ClientSession, contender: Contender) -> tuple[float, float]:
    async with http.get(contender.server.url + TIMES) as answer:
        times = await answer.json()
    return times["p50_ms"], times["p99_ms"]

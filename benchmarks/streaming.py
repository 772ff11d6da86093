"""One bounded closed-loop load of streamed completions against an OpenAI-compatible server, and its figures.

Times are taken with one monotonic clock in this process; a request's prompt is never used twice.
"""

import asyncio
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import httpx

_WORDS = ("water", "stone", "river", "light", "engine", "copper", "winter", "garden", "letter", "window", "market", "bridge")


@dataclass(frozen=True)
class RequestTimes:
    """One request: seconds from sending to the first token, gaps between later chunks, tokens by the server's usage."""

    ttft_s: float
    gaps_s: tuple[float, ...]
    completion_tokens: int


@dataclass(frozen=True)
class LoadFigures:
    """A load's results. ITL is the gap between two chunks; a chunk can hold more than one token."""

    clients: int
    requests: int
    ttft_p50_ms: float
    ttft_p99_ms: float
    itl_p50_ms: float
    output_tok_per_s: float


def prompts(count: int, words: int, seed: int) -> list[str]:
    """`count` different prompts of `words` words, the same for the same seed."""
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    return [f"{seed} {index} " + " ".join(rng.choices(_WORDS, k=words)) for index in range(count)]


async def run_load(api_url: str, model: str, texts: Sequence[str], clients: int, max_tokens: int) -> LoadFigures:
    """Send every prompt once, `clients` at a time, each for exactly `max_tokens` tokens.

    Raises:
        httpx.HTTPError, ValueError: a request failed, or the server's token count is not what was asked for.
    """
    waiting = list(reversed(texts))
    times: list[RequestTimes] = []

    async def client(http: httpx.AsyncClient) -> None:
        while waiting:
            times.append(await _one_request(http, model, waiting.pop(), max_tokens))

    async with httpx.AsyncClient(base_url=api_url, timeout=120) as http:
        start = time.perf_counter()
        await asyncio.gather(*(client(http) for _ in range(clients)))
        elapsed_s = time.perf_counter() - start
    return summarize(times, clients, elapsed_s)


def summarize(times: Sequence[RequestTimes], clients: int, elapsed_s: float) -> LoadFigures:
    """Figures of a load that took `elapsed_s`."""
    ttft = [t.ttft_s for t in times]
    return LoadFigures(
        clients=clients,
        requests=len(times),
        ttft_p50_ms=1000 * statistics.median(ttft),
        ttft_p99_ms=1000 * percentile(ttft, 99),
        itl_p50_ms=1000 * statistics.median(gap for t in times for gap in t.gaps_s),
        output_tok_per_s=sum(t.completion_tokens for t in times) / elapsed_s,
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile of a non-empty list."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank), 1) - 1]


async def _one_request(http: httpx.AsyncClient, model: str, prompt: str, max_tokens: int) -> RequestTimes:
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    arrivals: list[float] = []
    completion_tokens = 0
    start = time.perf_counter()
    async with http.stream("POST", "/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            now, chunk = time.perf_counter(), json.loads(line[6:])
            if chunk["choices"]:
                arrivals.append(now)
            if chunk.get("usage"):
                completion_tokens = chunk["usage"]["completion_tokens"]
    if completion_tokens != max_tokens:
        raise ValueError(f"{http.base_url}: {completion_tokens} tokens came, {max_tokens} were asked for")
    gaps = tuple(b - a for a, b in pairwise(arrivals))
    return RequestTimes(arrivals[0] - start, gaps, completion_tokens)

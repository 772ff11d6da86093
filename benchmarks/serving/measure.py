"""One load from warm-up to its record, and the sweep that searches for the highest rate within the SLO."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf

from apps.common.errors import OperationError, UserError
from benchmarks.serving.arrivals import arrivals
from benchmarks.serving.client import Client
from benchmarks.serving.load import Sender, Watch, settle_memory, watching
from benchmarks.serving.result import ClientState, Counts, Load, Run, Slo, figures
from benchmarks.serving.server import CacheCounters, Server
from benchmarks.serving.tally import Tally
from benchmarks.serving.tokenizer import Tokenizer
from benchmarks.serving.workload import Conversation

ATTAINED = 0.9
"""Share of requests within the SLO that a rate needs to hold it, as in the DistServe paper (arXiv 2401.09670)."""
_GROWTH = 2.0
_CLOSE = 1.1  # the sweep ends when the rate that holds and the one that does not are so close
_MAX_STEPS = 12
_METRICS_DEADLINE_S, _POLL_S = 20.0, 1.0  # Ray's are up to ten seconds late


@dataclass
class Bench:
    """Loads on one server with one profile."""

    make_client: Callable[[], Client]
    server: Server
    tokenizer: Tokenizer
    conversations: Iterator[Conversation]
    """Goes on from load to load, so that no prompt comes twice."""
    schema_asked: bool
    slo: Slo
    report: Callable[[str, Sender, Tally], None]
    """Called after each response with the load's label."""

    async def warm_up(self, requests: int, clients: int) -> None:
        """Send requests that are not counted, so that compiling is over.

        Raises:
            OperationError: all of them failed.
        """
        if not requests:
            return
        load = Load(arrivals="closed", clients=clients, requests=requests, timeout_s=600)
        tally, *_ = await self._send("warm-up", load, None)
        if not tally.counts.completed:
            examples = tally.counts.error_examples
            kinds = "; ".join(f"{kind} {example}".strip() for kind, example in examples.items())
            raise OperationError(f"all {tally.ended} warm-up requests failed: {kinds}")

    async def run(self, load: Load, offsets: Iterable[float] | None = None) -> Run:
        """Send one load; its record. `offsets` are the times of a trace.

        Raises:
            UserError: the load is so small that there was nothing to send.
        """
        before = self.server.cache_counters()
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        tally, sender, watch, client = await self._send(load.label, load, offsets)
        if not sender.sent:
            raise UserError(f"{load.label}: nothing was sent: no request was due in --duration, or the dataset is used up")
        counts = tally.finish()
        if before and counts.checks.cached_tokens is None:
            await self._read_cache(before, counts)
        self._count_samples(tally)
        state = ClientState(
            cpu_share=round(watch.cpu_share, 3), lag=watch.lag, late=sender.late, connections=client.opened, rss_mb=watch.rss_mb
        )
        return record(load, started_at, tally, state, max_in_flight=sender.max_in_flight)

    async def sweep(self, load: Load) -> tuple[list[Run], float | None]:
        """Send loads at growing rates from `load.rate` until one misses the SLO, then between; and the highest that holds."""
        runs: list[Run] = []
        holds, misses = None, None
        rate = load.rate
        assert rate
        while len(runs) < _MAX_STEPS:
            run = await self.run(load.model_copy(update={"rate": round(rate, 4)}))
            runs.append(run)
            if (run.good or 0) / run.sent >= ATTAINED:
                holds = run.load.rate
            else:
                misses = run.load.rate
            if holds and misses and misses / holds <= _CLOSE:
                break
            rate = (holds * misses) ** 0.5 if holds and misses else rate * _GROWTH if holds else rate / _GROWTH
        return sorted(runs, key=lambda run: run.load.rate or 0), holds

    async def _send(self, label: str, load: Load, offsets: Iterable[float] | None) -> tuple[Tally, Sender, Watch, Client]:
        tally = Tally(self.slo, schema_asked=self.schema_asked)
        client = self.make_client()
        sender = Sender(client, tally, lambda sender: self.report(label, sender, tally))
        requests, duration_s = load.requests or inf, load.duration_s or inf
        settle_memory()
        async with watching() as watch:
            if load.clients:
                await sender.closed_loop(load.clients, self.conversations, requests, duration_s)
            else:
                if offsets is None:
                    assert load.rate
                    # one seed for all: runs with the same load are compared, and must differ in nothing but the server
                    offsets = arrivals(load.arrivals, load.rate, duration_s, seed=0)
                await sender.open_loop(offsets, self.conversations, requests)
        client.close()
        tally.end = tally.end or time.perf_counter()
        return tally, sender, watch, client

    async def _read_cache(self, before: CacheCounters, counts: Counts) -> None:
        """Cache hits by the server's metrics, once those have the load's prompts in them."""
        deadline = time.perf_counter() + _METRICS_DEADLINE_S
        while after := self.server.cache_counters():
            load = after.since(before)
            if load.queries >= counts.prompt_tokens or time.perf_counter() > deadline:
                if load.queries > 0:
                    counts.checks.cached_tokens = round(load.hits / load.queries * counts.prompt_tokens)
                    counts.checks.cached_by = "metrics"
                return
            await asyncio.sleep(_POLL_S)

    def _count_samples(self, tally: Tally) -> None:
        """Count the text of some responses by the tokenizer, beside the server's usage."""
        with contextlib.suppress(OperationError):  # a server that died under the load shows in its errors
            for response in tally.samples:
                if response.usage:
                    tally.counts.checks.sampled_text_tokens += self.tokenizer.count(response.text)
                    tally.counts.checks.sampled_tokens += response.usage.completion_tokens


def record(load: Load, started_at: str, tally: Tally, client: ClientState, *, max_in_flight: int) -> Run:
    """The record of a load that has ended, with its figures."""
    run = Run(
        **vars(tally.counts),
        load=load,
        started_at=started_at,
        elapsed_s=round(tally.end - tally.start, 6),
        sent=tally.ended,
        max_in_flight=max_in_flight,
        window_s=tally.timeline.window_s,
        windows=tally.timeline.windows(),
        client=client,
    )
    run.figures = figures(run)
    return run

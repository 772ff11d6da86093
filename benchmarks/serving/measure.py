"""One load from warm-up to its records and figures."""

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf

import uvloop

from apps.common.errors import OperationError, UserError
from benchmarks.serving.arrivals import arrivals
from benchmarks.serving.client import Client
from benchmarks.serving.figures import summarized
from benchmarks.serving.load import Plan, Progress, send
from benchmarks.serving.records import Record, decode
from benchmarks.serving.request import Request
from benchmarks.serving.result import ClientState, Load, Run, ServerSample, Slo
from benchmarks.serving.server import Server
from benchmarks.serving.tokenizer import Tokenizer
from benchmarks.serving.watch import settle_memory, worst_of
from benchmarks.serving.workload import Workload

_LEAD_S = 0.05  # from now to the first request, for the loop and the processes to be ready
_METRICS_DEADLINE_S, _POLL_S = 20.0, 1.0  # Ray's are up to ten seconds late


@dataclass
class Bench:
    """Loads on one server with one workload. Conversations go on from load to load, so that no prompt comes twice."""

    make_client: Callable[[], Client]
    server: Server
    tokenizer: Tokenizer
    workload: Workload
    slo: Slo
    report: Callable[[str, Progress], None]
    """Called after each response with the load's label."""
    processes: int = 1
    template_tokens: dict[str, int] = field(default_factory=dict)
    """What the server's template adds, by the shape of the prompt."""
    first: int = 0
    """Number of the conversation that comes next."""
    records: list[list[Record]] = field(default_factory=list)
    """Those of each run."""

    def calibrate(self, requests: Iterable[Request]) -> None:
        """Find what the template adds to each shape of a prompt by a request of it."""

        async def send_each() -> None:
            client = self.make_client()
            for request in requests:
                response = await client.send(request, time.perf_counter())
                if response.error is None and response.usage:
                    self.template_tokens[request.shape] = response.usage.prompt_tokens - request.prompt_tokens
            client.close()

        uvloop.run(send_each())

    def warm_up(self, requests: int, clients: int) -> None:
        """Send requests that are not counted, so that compiling is over. Raises `OperationError` if all of them fail."""
        if not requests:
            return
        records, *_ = self._send(Load(arrivals="closed", clients=clients, requests=requests, timeout_s=600), None, 0, "warm-up")
        if not any(record.is_ok or record.cancelled for record in records):
            details = {record.error: record.detail for record in reversed(records)}
            kinds = "; ".join(f"{kind} {detail}".strip() for kind, detail in details.items())
            raise OperationError(f"all {len(records)} warm-up requests failed: {kinds}")

    def run(self, load: Load, offsets: Sequence[float] | None = None, repeat: int = 0) -> Run:
        """Send one load. `offsets` are the times of a trace; `repeat` gives random arrivals another draw.

        Raises `UserError` if there was nothing to send.
        """
        before = self.server.counters()
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        with self.server.sampling() as samples:
            records, load_s, clients, started = self._send(load, offsets, repeat, load.label)
        if not records:
            raise UserError(f"{load.label}: nothing was sent: no request was due in --duration, or the dataset is used up")
        run = Run(
            load=load, repeat=repeat, started_at=started_at, load_s=round(load_s, 6), elapsed_s=0.0, sent=0, completed=0,
            client=worst_of(clients), replicas=self.server.replicas(),
            server=[ServerSample(at_s=round(at - started, 3), **sample) for at, sample in samples],
        )  # fmt: skip
        run = summarized(run, records, self.slo)
        if before and (counts := self._counts_since(before, run)):
            run.tokens_per_step = 1 + counts["accepted"] / counts["drafts"] if counts["drafts"] else None
            if run.cached_tokens is None and counts["queries"] > 0:
                run.cached_tokens = round(counts["hits"] / counts["queries"] * run.prompt_tokens)
                run.cached_by = "metrics"
                run = summarized(run, records, self.slo)
        self.records.append(records)
        return run

    def _counts_since(self, before: dict[str, float], run: Run) -> dict[str, float] | None:
        """What the server has counted since `before`, once it has counted the run's prompts."""
        deadline = time.perf_counter() + _METRICS_DEADLINE_S
        while after := self.server.counters():
            counts = {name: after[name] - before[name] for name in before}
            enough = counts["queries"] >= run.prompt_tokens or run.cached_by == "usage"
            if enough or time.perf_counter() > deadline:
                return counts
            time.sleep(_POLL_S)
        return None

    def _send(
        self, load: Load, offsets: Sequence[float] | None, seed: int, label: str
    ) -> tuple[list[Record], float, list[ClientState], float]:
        """The records, for how long requests were sent, how the clients did, and when it started."""
        due, duration = _due(load, offsets, seed)
        parts = min(self.processes, load.clients or self.processes)
        settle_memory()
        start = time.perf_counter() + _LEAD_S * parts
        plan = Plan(
            self.make_client, self.workload, self.template_tokens, self.report, label,
            load, due, start, start + duration, self.first,
        )  # fmt: skip
        ends = send(plan, parts)
        records = decode((line for end in ends for line in end.lines), "the processes")
        for record, text in ends[0].samples:
            with contextlib.suppress(OperationError):  # a server that died under the load shows in its errors
                record.text_tokens = self.tokenizer.count(text)
            records.append(record)
        self.first += parts * max(end.used for end in ends)
        if load.clients and records:
            duration = min(duration, max(record.begun or 0.0 for record in records) or inf)
        return records, max(duration if duration < inf else 0.0, 1e-6), [end.client for end in ends], start


def _due(load: Load, offsets: Sequence[float] | None, seed: int) -> tuple[Sequence[float], float]:
    """When open-loop requests are due, by a trace's `offsets` or the rate, and for how long (s) the load is sent."""
    if load.clients:
        return (), load.duration_s or inf
    if offsets is not None:
        offsets = [offset for offset in offsets if offset < (load.duration_s or inf)][: load.requests]
        return offsets, load.duration_s or (offsets[-1] * len(offsets) / max(1, len(offsets) - 1) if offsets else 0.0)
    assert load.rate
    assert load.duration_s
    duration = min(load.duration_s, load.requests / load.rate if load.requests else inf)
    return arrivals(load.arrivals, load.rate, duration, seed), duration

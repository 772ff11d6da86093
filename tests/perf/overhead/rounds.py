"""Loads in turns on two servers, with the load generator of benchmarks.serving, and the figures that compare them."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.serving.answers import miscount
from benchmarks.serving.client import Client
from benchmarks.serving.measure import Bench
from benchmarks.serving.profiles import Profile
from benchmarks.serving.records import Record
from benchmarks.serving.result import Load, Run, Slo
from benchmarks.serving.server import Server as MeasuredServer
from benchmarks.serving.tokenizer import Tokenizer, single_token_words
from benchmarks.serving.workload import Synthetic, Texts
from emulation.sim.text import tokenize
from tests.perf.bare import Server

_TIMEOUT_S = 120
SIMULATED_TOKENIZER = Tokenizer("the simulated engine's", lambda text: len(tokenize(text)))


@dataclass(frozen=True)
class Plan:
    """How much load: rounds, and in each round and server so many requests at each number of clients."""

    rounds: int
    requests: dict[int, int]
    prompt_tokens: int
    output_tokens: int

    def warm_up(self) -> "Plan":
        """The loads that warm up both servers: the same without the largest ones."""
        return replace(self, requests={clients: count for clients, count in self.requests.items() if clients <= 64})

    @property
    def profile(self) -> Profile:
        return Profile(
            name="overhead", api="completions", prompt_tokens=self.prompt_tokens, output_tokens=self.output_tokens, spread=0
        )


@dataclass(frozen=True)
class LoadFigures:
    """A load's results; ITL is for each token. None: no answer."""

    clients: int
    requests: int
    errors: int
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    itl_p50_ms: float | None
    output_tok_per_s: float


def figures_of(run: Run, records: Sequence[Record]) -> LoadFigures:
    """The figures of a run. Raises `ValueError` if the server counted other tokens than were requested."""
    for record in records:
        if record.is_ok and (record.output_tokens is None or miscount(record)):
            raise ValueError(miscount(record) or "answers came without usage")
    assert run.load.clients
    values = run.figures
    return LoadFigures(
        run.load.clients,
        run.completed,
        run.errors.total(),
        values["ttft_p50_ms"],
        values["ttft_p99_ms"],
        values["itl_p50_ms"],
        values["output_tok_per_s"] or 0.0,
    )


class Rounds:
    """Prompts go on from round to round, so that none comes twice on any server."""

    def __init__(self, model: str, plan: Plan, tokenizer: Tokenizer) -> None:
        self._model, self._plan, self._tokenizer = model, plan, tokenizer
        self._texts = Texts(single_token_words(tokenizer), seed=1)
        self._next = 0

    def run(self, server: Server, *, warm_up: bool = False) -> list[LoadFigures]:
        """Send each load of the plan once to a server; for warming up, not the largest ones."""
        plan = self._plan.warm_up() if warm_up else self._plan
        bench = Bench(
            lambda: Client(server.url, plan.profile.path, None, timeout_s=_TIMEOUT_S),
            MeasuredServer(server.url, {}),
            self._tokenizer,
            Synthetic(self._model, plan.profile, self._texts),
            slo=Slo(),
            report=lambda *_: None,
            first=self._next,
        )
        figures = []
        for clients, requests in plan.requests.items():
            run = bench.run(Load(arrivals="closed", clients=clients, requests=requests, timeout_s=_TIMEOUT_S))
            figures.append(figures_of(run, bench.records[-1]))
        self._next = bench.first
        return figures


def compare(bare: Sequence[LoadFigures], ours: Sequence[LoadFigures]) -> dict[str, float]:
    """TTFT added at one client, and the throughput's ratio at the largest number of clients, from medians over the rounds."""
    clients = max(figure.clients for figure in bare)
    return {
        "ttft_added_ms": median(ours, 1, "ttft_p50_ms") - median(bare, 1, "ttft_p50_ms"),
        "throughput_ratio": median(ours, clients, "output_tok_per_s") / median(bare, clients, "output_tok_per_s"),
    }


def median(figures: Sequence[LoadFigures], clients: int, name: str) -> float:
    """Median of a figure over the rounds; not a number if a round has none."""
    values = [getattr(figure, name) for figure in figures if figure.clients == clients]
    return float("nan") if None in values else statistics.median(values)

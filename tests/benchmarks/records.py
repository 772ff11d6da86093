"""Runs and responses for tests that need no server: a valid run of a TPU slice, to be spoilt in one way at a time."""

from collections.abc import Iterable
from typing import Any

from benchmarks.serving.histogram import Histogram
from benchmarks.serving.measure import record
from benchmarks.serving.profiles import PROFILES
from benchmarks.serving.request import Request, Response, Usage
from benchmarks.serving.result import ClientState, Load, Run, Setting, Slo, figures
from benchmarks.serving.tally import Tally

V6E = {
    "model_loading_config": {"model_id": "google/gemma-4-31B-it"},
    "accelerator_type": "TPU-V6E",
    "accelerator_config": {"kind": "tpu", "topology": "2x2"},
    "engine_kwargs": {"tensor_parallel_size": 4},
}


def setting(**changes: Any) -> Setting:
    """Four v6e chips, as the impossible figure in circulation has them."""
    values = {
        "url": "http://127.0.0.1:8000",
        "model": "google/gemma-4-31B-it",
        "profile": PROFILES["chat"],
        "seed": 1,
        "slo": Slo(),
        "tokenizer": "test",
        "warmup_requests": 0,
        "versions": {},
        "client_cores": 2,
        "llm_config": V6E,
    }
    return Setting(**{**values, **changes})


def responses(count: int, *, ttft: float = 0.5, tpot: float = 0.05, every: float = 0.1, tokens: int = 20) -> Iterable[Response]:
    """Responses every `every` seconds, each to a prompt of its own of 100 tokens."""
    for number in range(count):
        intended = number * every
        request = Request(f"prompt {number}".encode(), 100, tokens, exact=True)
        first = intended + ttft
        last, gaps = first + (tokens - 1) * tpot, [tpot] * (tokens - 1)
        usage = Usage(100, tokens, 0)
        yield Response(request, intended, intended, first, last, gaps, tokens, usage, "length", complete=True)


def run(taken: Iterable[Response], slo: Slo | None = None, *, clients: int | None = None) -> Run:
    """The record of responses that began at 0 seconds; the client had nothing to do."""
    tally = Tally(slo or Slo(), schema_asked=False)
    for response in taken:
        tally.add(response)
    load = Load(arrivals="closed" if clients else "constant", clients=clients, rate=None if clients else 10, timeout_s=60)
    client = ClientState(cpu_share=0.1, lag=_small(), late=_small(), connections=1, rss_mb=[50.0])
    tally.finish()
    return record(load, "2026-11-26T00:00:00+00:00", tally, client, max_in_flight=16)


def with_figures(run: Run) -> Run:
    """The run with the figures that follow from its counts, after a change of them."""
    run.figures = figures(run)
    return run


def _small() -> Histogram:
    histogram = Histogram()
    histogram.add([0.1] * 100)
    return histogram

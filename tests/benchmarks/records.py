"""Runs and answers for tests that need no server: an honest run of a TPU slice, to be spoilt in one way at a time."""

from collections.abc import Iterable
from typing import Any

from benchmarks.serving.answer import Answer, Asked, Usage
from benchmarks.serving.figures import figures
from benchmarks.serving.histogram import Histogram
from benchmarks.serving.profiles import PROFILES
from benchmarks.serving.result import Checks, ClientState, Load, Run, Setting, Slo
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


def answers(count: int, *, ttft: float = 0.5, tpot: float = 0.05, every: float = 0.1, tokens: int = 20) -> Iterable[Answer]:
    """One after `every` seconds, each with a prompt of its own of 100 tokens."""
    for number in range(count):
        intended = number * every
        asked = Asked(f"prompt {number}".encode(), 100, tokens, exact=True)
        first = intended + ttft
        last = first + (tokens - 1) * tpot
        yield Answer(
            asked, intended, intended, first, last, [tpot] * (tokens - 1), tokens, Usage(100, tokens, 0), "length", whole=True
        )


def run(taken: Iterable[Answer], slo: Slo | None = None, *, clients: int | None = None) -> Run:
    """What the tally makes of answers that began at 0 seconds; the client had nothing to do."""
    tally = Tally(slo or Slo(), schema_asked=False)
    for answer in taken:
        tally.take(answer)
    checks: Checks = tally.finish()
    found = Run(
        load=Load(arrivals="closed" if clients else "constant", clients=clients, rate=None if clients else 10, timeout_s=60),
        started_at="2026-11-26T00:00:00+00:00",
        elapsed_s=tally.end,
        sent=tally.ended,
        completed=tally.completed,
        good=tally.good if slo else None,
        errors=tally.errors,
        error_examples=tally.error_examples,
        prompt_tokens=tally.prompt_tokens,
        output_tokens=tally.output_tokens,
        least_prompt_tokens=tally.least_prompt_tokens,
        most_in_flight=16,
        ttft=tally.ttft,
        tpot=tally.tpot,
        itl=tally.itl,
        e2e=tally.e2e,
        window_s=tally.timeline.window_s,
        windows=tally.timeline.windows(),
        checks=checks,
        client=ClientState(cpu_share=0.1, lag=_small(), late=_small(), connections=1, rss_mb=[50.0]),
    )
    return refigured(found)


def refigured(run: Run) -> Run:
    """With the figures that follow from its counts, after a change of them."""
    run.figures = figures(run)
    return run


def _small() -> Histogram:
    found = Histogram()
    found.add([0.1] * 100)
    return found

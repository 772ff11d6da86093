"""Runs and responses for tests that need no server: a valid run of a TPU slice, to be spoilt in one way at a time."""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.serving.figures import summarized
from benchmarks.serving.profiles import PROFILES
from benchmarks.serving.records import Record, record_of
from benchmarks.serving.request import PromptDetails, Request, Response, Usage
from benchmarks.serving.result import ClientState, Load, Run, Setting, Slo

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
        "profiles": [PROFILES["chat"]],
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
        request = Request(b"", 100, tokens, digest=f"{number:016x}", blocks=f"{number:08x}" * 6)
        times = [intended + ttft + tpot * token for token in range(tokens)]
        yield Response(
            request,
            intended,
            intended,
            intended,
            times[-1],
            times,
            [5] * tokens,
            [],
            0,
            0,
            Usage(100, tokens, PromptDetails(0)),
            "length",
            True,
        )


def recorded(taken: Iterable[Response]) -> list[Record]:
    """Records of responses whose run began at 0 seconds, with a template of no tokens."""
    return [record_of(0.0, response, 0, response.error) for response in taken]


def run(records: Sequence[Record], slo: Slo | None = None, *, clients: int | None = None, **changes: Any) -> Run:
    """The run of records; its client had nothing to do."""
    arrivals = "closed" if clients else "constant"
    load = Load(arrivals=arrivals, clients=clients, rate=None if clients else 10, timeout_s=60)
    load_s = max(record.intended for record in records) * len(records) / max(1, len(records) - 1) or 1.0
    client = ClientState(cpu_share=0.1, late_p50_ms=0.1, late_p99_ms=0.1, longest_pause_ms=0.2, connections=1, rss_mb=[50.0])
    started = "2026-11-26T00:00:00+00:00"
    made = Run(load=load, started_at=started, load_s=load_s, elapsed_s=0, sent=0, completed=0, client=client, **changes)
    return summarized(made, records, slo or Slo())

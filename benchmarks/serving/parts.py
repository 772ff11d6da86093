"""A load shared by processes: each sends every n-th conversation, and returns a record of each response."""

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from math import inf
from multiprocessing.connection import Connection
from typing import Any

import jsonschema
import uvloop

from apps.common.errors import OperationError
from benchmarks.serving.client import Client
from benchmarks.serving.load import Sender, watching
from benchmarks.serving.profiles import ANSWER_SCHEMA
from benchmarks.serving.records import Record, encode, record_of
from benchmarks.serving.request import Response
from benchmarks.serving.result import ClientState, Load
from benchmarks.serving.workload import Conversation, Workload

_SAMPLES = 16  # responses whose text is kept, to be counted by the tokenizer afterwards


@dataclass
class Progress:
    """What this process has seen of a load so far."""

    start: float
    completed: int = 0
    errors: int = 0
    output_tokens: int = 0
    in_flight: int = 0


@dataclass(frozen=True)
class Plan:
    """A load as each process gets it. Times are the clock's."""

    make_client: Callable[[], Client]
    workload: Workload
    template_tokens: dict[str, int]
    """What the server's template adds, by the shape of the prompt."""
    report: Callable[[str, Progress], None]
    """Called after each response with the label, in the first process."""
    label: str
    load: Load
    offsets: Sequence[float]
    """When open-loop requests are due, from the start."""
    start: float
    end: float
    first: int
    """Number of the first conversation."""


@dataclass
class Part:
    """What one process did of a load."""

    client: ClientState
    used: int
    """Conversations."""
    lines: list[bytes]
    """Records as JSON, which the garbage collector need not search, but for..."""
    samples: list[tuple[Record, str]]
    """...some, with their texts."""


def send(plan: Plan, parts: int) -> list[Part]:
    """Send each part in a process of its own, the first one in this."""
    fork = multiprocessing.get_context("fork")
    others = []
    for part in range(1, parts):
        here, there = fork.Pipe(duplex=False)
        process = fork.Process(target=_child, args=(plan, part, parts, there), daemon=True)
        process.start()
        there.close()
        others.append((process, here))
    ends = [uvloop.run(_converse(plan, 0, parts))]
    for process, here in others:
        try:
            ends.append(here.recv())
        except EOFError as error:
            raise OperationError("a client process ended before its load did") from error
        process.join()
    return ends


def _child(plan: Plan, part: int, parts: int, there: Connection) -> None:
    there.send(uvloop.run(_converse(replace(plan, report=lambda *_: None), part, parts)))


async def _converse(plan: Plan, part: int, parts: int) -> Part:
    """Send every `parts`-th conversation of a load."""
    lines: list[bytes] = []
    samples: list[tuple[Record, str]] = []
    progress = Progress(plan.start)
    client = plan.make_client()

    def take(response: Response) -> bool:
        overhead = plan.template_tokens.get(response.request.shape)
        record = record_of(plan.start, response, overhead, response.error or fault(response))
        if part == 0 and record.is_ok and response.text and len(samples) < _SAMPLES:
            samples.append((record, response.text))
        else:
            lines.append(encode([record]))
        sender.keep_text = part == 0 and len(samples) < _SAMPLES
        progress.completed += record.is_ok
        progress.errors += record.error is not None
        progress.output_tokens += record.output_tokens or 0
        progress.in_flight = sender.in_flight
        plan.report(plan.label, progress)
        return record.error is None

    sender = Sender(client, take, start=plan.start, end=plan.end)
    work = _conversations(plan, part, parts)
    async with watching() as watch:
        if plan.load.clients:
            requests = (plan.load.requests + parts - 1 - part) // parts if plan.load.requests else inf
            await sender.closed_loop((plan.load.clients + parts - 1 - part) // parts, work, requests)
        else:
            await sender.open_loop(plan.offsets[part::parts], work)
        state = watch.state(client.opened)
    client.close()
    return Part(state, sender.used, lines, samples)


def _conversations(plan: Plan, part: int, parts: int) -> Iterator[Conversation]:
    for number in count(plan.first + part, parts):
        if (conversation := plan.workload.conversation(number)) is None:
            return
        yield conversation


def fault(response: Response) -> str | None:
    """What is wrong with a response that came to its end; None if nothing."""
    if not response.times:
        return "no token in the answer"
    if not response.request.schema or response.cancelled:
        return None
    if response.finish_reason == "length":
        return "answer cut off before its end"
    try:
        jsonschema.validate(json.loads(response.text), ANSWER_SCHEMA)
    except (ValueError, jsonschema.ValidationError):
        return "answer not of the schema"
    return None


def worst_of(states: Sequence[ClientState]) -> ClientState:
    """The state of several processes: each measure by the process that has it worst."""
    worst: dict[str, Any] = {}
    for name in ClientState.model_fields:
        values = [getattr(state, name) for state in states if getattr(state, name) is not None]
        worst[name] = max(values, default=None)
    return ClientState(**{**worst, "connections": sum(state.connections for state in states), "rss_mb": states[0].rss_mb})

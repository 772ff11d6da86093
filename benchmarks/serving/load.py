"""Sends one load: open-loop (at times that do not wait for responses) or closed-loop (so many clients that do).

Processes can share it: each sends every n-th conversation. Latency counts from the intended time, so that a request that waited
for its process or for a connection shows it; one that was due while too many others ran is an error, not a pause of the clock.
"""

import asyncio
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from math import inf
from multiprocessing.connection import Connection

import jsonschema
import uvloop

from apps.common.errors import OperationError
from benchmarks.serving.client import Client
from benchmarks.serving.profiles import ANSWER_SCHEMA
from benchmarks.serving.records import Record, encode, record_of
from benchmarks.serving.request import Request, Response
from benchmarks.serving.result import ClientState, Load
from benchmarks.serving.watch import open_as_many_files_as_allowed, watching
from benchmarks.serving.workload import Conversation, Workload

_SAMPLES = 16  # responses whose text is kept, to be counted by the tokenizer afterwards
_SPARE_FILES = 64
_AFTER_ERROR_S = 0.1  # else a server that refuses at once gets thousands of requests a second


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
    ends = [uvloop.run(_Sender(plan, 0, parts).run())]
    for process, here in others:
        try:
            ends.append(here.recv())
        except EOFError as error:
            raise OperationError("a client process ended before its load did") from error
        process.join()
    return ends


def _child(plan: Plan, part: int, parts: int, there: Connection) -> None:
    there.send(uvloop.run(_Sender(replace(plan, report=lambda *_: None), part, parts).run()))


class _Sender:
    """Sends every `parts`-th conversation of a load, from number `part` on; no request is begun after the load's end."""

    def __init__(self, plan: Plan, part: int, parts: int) -> None:
        self._plan, self._part, self._parts = plan, part, parts
        self._client = plan.make_client()
        self._progress = Progress(plan.start)
        self._max_open = open_as_many_files_as_allowed() - _SPARE_FILES
        self._sent = self._used = 0
        self._lines: list[bytes] = []
        self._samples: list[tuple[Record, str]] = []

    async def run(self) -> Part:
        load, work = self._plan.load, self._conversations()
        async with watching() as watch:
            if load.clients:
                await self._closed_loop(self._share(load.clients), work, self._share(load.requests) if load.requests else inf)
            else:
                await self._open_loop(work)
            state = watch.state(self._client.opened)
        self._client.close()
        return Part(state, self._used, self._lines, self._samples)

    def _share(self, total: int) -> int:
        return len(range(self._part, total, self._parts))

    def _conversations(self) -> Iterator[Conversation]:
        for number in count(self._plan.first + self._part, self._parts):
            if (conversation := self._plan.workload.conversation(number)) is None:
                return
            self._used += 1
            yield conversation

    async def _open_loop(self, work: Iterator[Conversation]) -> None:
        """Begin a conversation at each offset; return when all have ended."""
        running: set[asyncio.Task[bool]] = set()
        # zip takes an offset first, so that no conversation is lost
        for offset, conversation in zip(self._plan.offsets[self._part :: self._parts], work, strict=False):
            request, intended = next(conversation), self._plan.start + offset  # made before it is due
            while (wait := intended - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.ensure_future(self._converse(conversation, request, intended))
            running.add(task)
            task.add_done_callback(running.discard)
            await asyncio.sleep(0)  # a sender that is late must not starve the responses
        await asyncio.gather(*running)

    async def _closed_loop(self, clients: int, work: Iterator[Conversation], max_requests: float) -> None:
        """Have `clients` conversations at once, up to so many requests; return when all have ended."""
        await asyncio.sleep(max(0.0, self._plan.start - time.perf_counter()))

        async def client() -> None:
            intended = self._plan.start
            while self._sent < max_requests and intended < self._plan.end and (conversation := next(work, None)):
                if not await self._converse(conversation, next(conversation), intended):
                    await asyncio.sleep(_AFTER_ERROR_S)
                intended = time.perf_counter()

        await asyncio.gather(*(client() for _ in range(clients)))

    async def _converse(self, conversation: Conversation, request: Request, intended: float) -> bool:
        """Whether it came to its end."""
        while True:
            response = await self._send(request, intended)
            if not self._take(response):
                return False
            intended = time.perf_counter()
            if response.usage is None or intended >= self._plan.end:
                return True
            try:
                request = conversation.send(response)
            except StopIteration:
                return True

    async def _send(self, request: Request, intended: float) -> Response:
        self._sent += 1
        in_flight = self._progress.in_flight
        if in_flight >= self._max_open:
            error = f"not sent: {in_flight} requests were open (limit of files)"
            return Response(request, intended, ended=time.perf_counter(), error=error)
        self._progress.in_flight += 1
        try:
            return await self._client.send(request, intended, keep_text=request.keep_text or self._is_sampling())
        finally:
            self._progress.in_flight -= 1

    def _is_sampling(self) -> bool:
        return self._part == 0 and len(self._samples) < _SAMPLES

    def _take(self, response: Response) -> bool:
        """Record a response; whether it was good."""
        plan, progress = self._plan, self._progress
        overhead = plan.template_tokens.get(response.request.shape)
        record = record_of(plan.start, response, overhead, response.error or fault(response))
        if record.is_ok and response.text and self._is_sampling():
            self._samples.append((record, response.text))
        else:
            self._lines.append(encode([record]))
        progress.completed += record.is_ok
        progress.errors += record.error is not None
        progress.output_tokens += record.output_tokens or 0
        plan.report(plan.label, progress)
        return record.error is None


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

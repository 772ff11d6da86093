"""Where a request's time in the guard goes, in microseconds of CPU: its key, its fields, its turn, its answer; each alone."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.types import Message

from apps.guard import caps, engines, generation_request
from apps.guard.access import Access
from apps.guard.bodies import parse_json
from apps.guard.fair import FairQueue
from apps.guard.grammars import find_grammars
from apps.guard.housekeeping import Housekeeping
from apps.guard.key_usage import KeyUsage
from apps.guard.response_tracker import ResponseTracker
from apps.guard.settings import ReplicaGuard
from apps.guard.verifier import Verifier
from tests.perf.guard.cost import request_of, stream

_REQUESTS, _TURNS = 500, 7


def by_part(settings: ReplicaGuard, key: str) -> dict[str, float]:
    """CPU microseconds of a request by part, and of a token (`token`, all of it tracking); one after the other, no sockets."""
    return asyncio.run(_measure(settings, key))


async def _measure(settings: ReplicaGuard, key: str) -> dict[str, float]:
    args = settings.args
    housekeeping = Housekeeping(args)
    assert housekeeping.keys is not None
    queue = FairQueue(settings.capacity, args.queue.waiting, args.queue.waiting_per_key)
    housekeeping.watch(queue)  # opens the audit
    verifier, usage = Verifier(housekeeping.keys), KeyUsage("benchmark")
    usage.set_limits(args.limits, 1)
    scope, body = request_of(key, tokens=1)
    fields = parse_json(body, settings.json_items, args.bounds.json_depth)
    asked = generation_request.parse(body, fields, args.bounds, chat=False)

    async def auth() -> None:
        await verifier.verify(key.encode())

    async def body_and_fields() -> None:
        parsed = parse_json(body, settings.json_items, args.bounds.json_depth)
        request = generation_request.parse(body, parsed, args.bounds, chat=False)
        engines.without_effect(parsed, settings.flavour, drop=False)
        find_grammars(parsed, args.bounds.grammars)
        await caps.max_tokens_to_set(stream, scope, request, args.limits, settings.context_tokens)
        generation_request.edited(request._replace(cache_salt="0" * 64), None)

    async def turn() -> None:
        usage.begin()
        usage.charge_prompt(asked.prompt_tokens)
        queue.leave(usage.flow, queue.enter(usage.flow, 1, usage.estimate(asked)), 1)
        usage.active -= 1

    async def answer(tokens: int) -> None:
        tracker = ResponseTracker.of(scope, _take)
        tracker.usage, tracker.access, tracker.unfinished, tracker.max_output = usage, Access.KEY, 1, 1
        await stream({**scope, "tokens": tokens}, _nothing, tracker.send)
        tracker.settle()
        housekeeping.note(tracker)

    async def bare(tokens: int) -> None:
        await stream({**scope, "tokens": tokens}, _nothing, _take)

    await verifier.verify(key.encode())  # hashed once
    parts = {"auth": await _us(auth), "fields": await _us(body_and_fields), "queue": await _us(turn)}
    short, long = [await _us(partial(answer, n)) - await _us(partial(bare, n)) for n in (1, 101)]
    housekeeping.close()
    return {**parts, "tracking": short, "token": (long - short) / 100}


async def _us(part: Callable[[], Awaitable[Any]]) -> float:
    turns = []
    for _ in range(_TURNS):
        start = time.process_time()
        for _ in range(_REQUESTS):
            await part()
        turns.append((time.process_time() - start) / _REQUESTS)
    return 1e6 * statistics.median(turns)


async def _take(message: Message) -> None: ...


async def _nothing() -> Message:
    return {"type": "http.request"}

"""Continuous batching without a model: every step takes the roofline's time and produces a token for each running sequence.

As in vLLM, one step holds what the running sequences need, in the order in which they began, and then waiting prompts, both up
to a token budget: a prompt that does not fit goes on in the next step, and others wait behind it. A sequence that finds no
space in the KV cache sends the youngest one of the lowest priority back to the queue.
"""

import asyncio
import logging
import time
from bisect import insort_left, insort_right
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from apps.slice.memory import Layout
from apps.slice.roofline import Chunk, step_seconds
from apps.slice.topology import Generation
from emulation.sim.cache import KvCache
from emulation.sim.faults import EngineDeadError

logger = logging.getLogger("ray.serve")
_PRIORITY = attrgetter("priority")
_CATCH_UP_S = 0.1  # how much of a delay later steps make up for: timers are late by a little each time


@dataclass(frozen=True)
class Limits:
    """Limits with vLLM's own names and meanings. `efficiency` is the share of the roofline's speed that is simulated."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    efficiency: float


@dataclass(eq=False)
class Request:
    """One request in progress."""

    prompt: Sequence[str]
    source: Iterator[str]
    budget: int
    """Tokens it may still produce."""
    poison: Exception | None = None
    """Error that a step with it raises."""
    cache_salt: str | None = None
    priority: int = 0
    """The lowest goes first."""
    computed: int = 0
    """Tokens whose KV is held."""
    produced: int = 0
    cached: int = 0
    out: "asyncio.Queue[str | EngineDeadError | None]" = field(default_factory=asyncio.Queue)

    @property
    def wanted(self) -> int:
        """Tokens that must be computed before the next one can be produced."""
        return len(self.prompt) + self.produced


class Scheduler:
    """Runs sequences in steps while there are any. One per replica."""

    def __init__(self, layout: Layout, generation: Generation, limits: Limits, cache: KvCache) -> None:
        self._layout, self._generation, self._limits = layout, generation, limits
        self.cache = cache
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.late_s = 0.0
        """How far real time is behind simulated time: above 0 the machine is too slow for the load."""
        self._work = asyncio.Event()
        self._clock = time.monotonic()
        self.ended = asyncio.Event()
        """Set once a step has raised: no step follows."""
        self._task = asyncio.create_task(self._run())

    async def tokens(self, sequence: Request) -> AsyncIterator[str]:
        """Enqueue and yield tokens as they come. Leaving early frees the sequence's space. Raises `EngineDeadError`."""
        if self.ended.is_set():
            raise EngineDeadError
        insort_right(self.waiting, sequence, key=_PRIORITY)
        self._work.set()
        try:
            while (token := await sequence.out.get()) is not None:
                if isinstance(token, EngineDeadError):
                    raise token
                yield token
        finally:
            self._drop(sequence)

    def stop(self) -> None:
        """Stop the loop; running sequences get nothing more."""
        self._task.cancel()

    async def _run(self) -> None:
        try:
            await self._run_steps()
        except Exception:
            logger.exception("sim: a step has failed, and the engine with it")
            self.ended.set()
            for sequence in (*self.running, *self.waiting):
                sequence.out.put_nowait(EngineDeadError())

    async def _run_steps(self) -> None:
        while True:
            if not (self.waiting or self.running):
                self._work.clear()
                await self._work.wait()
                self._clock = time.monotonic()
            chunks = self._plan()
            step_s = step_seconds(self._layout, self._generation, list(chunks.values())) / self._limits.efficiency
            self._clock = max(self._clock, time.monotonic() - _CATCH_UP_S) + step_s
            self.late_s = max(0.0, time.monotonic() - self._clock)
            await asyncio.sleep(max(0.0, self._clock - time.monotonic()))
            self._finish_step(chunks)

    def _plan(self) -> dict[Request, Chunk]:
        chunks: dict[Request, Chunk] = {}
        budget = self._limits.max_num_batched_tokens
        for sequence in list(self.running):
            budget -= self._schedule(sequence, budget, chunks)
        while budget > 0 and self.waiting and len(self.running) < self._limits.max_num_seqs and self._admit(self.waiting[0]):
            self.running.append(self.waiting.popleft())
            if not (tokens := self._schedule(self.running[-1], budget, chunks)):
                break
            budget -= tokens
        return chunks

    def _schedule(self, sequence: Request, budget: int, chunks: dict[Request, Chunk]) -> int:
        """Tokens of a running sequence in the next step; 0 if it has to give way."""
        tokens = min(sequence.wanted - sequence.computed, budget)
        if tokens > 0 and sequence in self.running and self._make_room(sequence, tokens, chunks):
            chunks[sequence] = Chunk(tokens, sequence.computed)
            return tokens
        return 0

    def _admit(self, sequence: Request) -> bool:
        if self.cache.held + len(sequence.prompt) > self.cache.capacity:
            return False
        sequence.cached = self.cache.cached_prefix(sequence.prompt, sequence.cache_salt)
        self.cache.take(sequence.cached)
        sequence.computed = sequence.cached
        return True

    def _make_room(self, sequence: Request, tokens: int, chunks: dict[Request, Chunk]) -> bool:
        while not self.cache.take(tokens):
            victim = max(reversed(self.running), key=_PRIORITY)
            self.running.remove(victim)
            planned = chunks.pop(victim, None)
            self.cache.release(victim.computed + (planned.tokens if planned else 0))
            victim.computed = 0
            insort_left(self.waiting, victim, key=_PRIORITY)
            if victim is sequence:
                return False
        return True

    def _finish_step(self, chunks: dict[Request, Chunk]) -> None:
        for sequence, chunk in chunks.items():
            if sequence.poison:
                raise sequence.poison
            if sequence not in self.running:  # its client left during the step
                self.cache.release(chunk.tokens)
                continue
            sequence.computed += chunk.tokens
            if sequence.computed == sequence.wanted:
                self._produce(sequence)

    def _produce(self, sequence: Request) -> None:
        token = next(sequence.source, None)
        if token is not None:
            sequence.produced += 1
            sequence.budget -= 1
            sequence.out.put_nowait(token)
        if token is None or sequence.budget <= 0:
            sequence.out.put_nowait(None)
            self._drop(sequence)

    def _drop(self, sequence: Request) -> None:
        if sequence in self.running:
            self.running.remove(sequence)
            self.cache.release(sequence.computed, sequence.prompt[: sequence.computed], sequence.cache_salt)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

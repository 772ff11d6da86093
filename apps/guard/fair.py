"""Who is let into a full engine next: keys take turns so that each gets tokens in proportion to its weight.

Each key has a virtual time, which its tokens move forward, slower the more weight it has. The waiting request of the key that
is furthest behind goes first; a key that comes back from a pause starts where the last request that was done did, and saves
nothing up. A request's tokens are estimated when it is let in and corrected when it has ended. Knows nothing of requests, only
their cost. An engine that takes a request's `start` as its priority goes on in the same order: prompts that wait in it for
their computation would else be in the order in which they came.

Source: start-time fair queueing (Goyal, Vin and Cheng, 1996); the Linux scheduler's vruntime is the same idea.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from apps.guard.answers import Refusal


@dataclass(eq=False)
class Ticket:
    """One request's place: `slots` of the engine's sequences, and the tokens that it is thought to cost."""

    slots: int
    cost: float
    admitted: "asyncio.Future[None] | None" = None
    """The future to wait for, where the engine is full."""
    inside: bool = False
    start: float = 0.0
    """The key's virtual time when it was let in."""


@dataclass(eq=False)
class Flow:
    """A key in the queue. `served` is its virtual time, in tokens at weight 1."""

    weight: float = 1.0
    served: float = 0.0
    waiting: deque[Ticket] = field(default_factory=deque)


class FairQueue:
    """A queue for an engine with `capacity` sequences; None lets all in. `max_waiting` may wait, `max_per_key` of one key."""

    def __init__(self, capacity: int | None, max_waiting: int, max_per_key: int) -> None:
        self._capacity = capacity
        self._max_waiting, self._max_per_key = max_waiting, max_per_key
        self._now = 0.0
        self._backlog: dict[int, Flow] = {}
        """Those with waiting requests, by identity."""
        self.taken = 0
        self.waiting = 0

    def enter(self, flow: Flow, slots: int, cost: float) -> Ticket:
        """A place for a request; if its `admitted` is a future, that must be waited for.

        Raises:
            Refusal: 429, too many wait.
        """
        ticket = Ticket(min(slots, self._capacity or slots), cost)
        if not flow.waiting:
            flow.served = max(flow.served, self._now)
        if self._capacity is None or (not self.waiting and self.taken + ticket.slots <= self._capacity):
            self._admit(flow, ticket)
            return ticket
        if self.waiting >= self._max_waiting or len(flow.waiting) >= self._max_per_key:
            who = "this key has" if len(flow.waiting) >= self._max_per_key else "all keys together have"
            message = f"The model is busy, and {who} as many requests waiting as allowed. Try again later."
            raise Refusal(429, message, "rate_limit_exceeded", kind="requests", headers={"retry-after": "5"})
        self._backlog[id(flow)] = flow
        ticket.admitted = asyncio.get_running_loop().create_future()
        flow.waiting.append(ticket)
        self.waiting += 1
        return ticket

    def leave(self, flow: Flow, ticket: Ticket, cost: float | None) -> None:
        """A request has ended and did cost so much (None: as was thought), or its client left before it was let in."""
        if ticket.inside:
            self.taken -= ticket.slots
            self._now = max(self._now, ticket.start)
            flow.served += ((ticket.cost if cost is None else cost) - ticket.cost) / flow.weight
        else:
            flow.waiting.remove(ticket)
            self._one_less(flow)
        self._admit_waiting()

    def _admit_waiting(self) -> None:
        while self._backlog:
            flow = min(self._backlog.values(), key=lambda flow: flow.served)
            ticket = flow.waiting[0]
            if self._capacity is not None and self.taken + ticket.slots > self._capacity:
                return
            flow.waiting.popleft()
            self._one_less(flow)
            self._admit(flow, ticket)
            if ticket.admitted and not ticket.admitted.done():
                ticket.admitted.set_result(None)

    def _admit(self, flow: Flow, ticket: Ticket) -> None:
        ticket.inside = True
        self.taken += ticket.slots
        ticket.start = flow.served
        flow.served += ticket.cost / flow.weight

    def _one_less(self, flow: Flow) -> None:
        self.waiting -= 1
        if not flow.waiting:
            del self._backlog[id(flow)]

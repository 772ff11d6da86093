"""Who goes first when the engine is full: shares by weight, no key starves, nothing is lost when clients leave."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.guard.answers import Refusal
from apps.guard.fair import FairQueue, Flow, Ticket


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


def served_tokens(weights: dict[str, float], requests: int, sizes: dict[str, tuple[int, int]]) -> Counter[str]:
    """Tokens of each key after so many requests, where every key always has some waiting and sizes are guessed wrong."""

    async def simulate() -> Counter[str]:
        queue = FairQueue(8, max_waiting=1000, max_per_key=100)
        draw, done = random.Random(1), Counter[str]()
        shares = {name: Flow(weight) for name, weight in weights.items()}
        running: list[tuple[str, Ticket]] = []
        entered: dict[str, list[Ticket]] = {name: [] for name in weights}

        def refill(name: str) -> None:
            while len(entered[name]) < 12:
                entered[name].append(queue.enter(shares[name], 1, cost=100))

        for name in weights:
            refill(name)
        for _ in range(requests):
            for name, tickets in entered.items():
                running += [(name, ticket) for ticket in tickets if ticket.inside]
                entered[name] = [ticket for ticket in tickets if not ticket.inside]
            name, ticket = running.pop(draw.randrange(len(running)))
            tokens = draw.randint(*sizes[name])
            queue.leave(shares[name], ticket, tokens)
            done[name] += tokens
            refill(name)
        return done

    return run(simulate())


@pytest.mark.parametrize("weights", [{"a": 1, "b": 1}, {"a": 1, "b": 2, "c": 3, "d": 4}, {"a": 0.5, "b": 5}])
def test_tokens_are_shared_by_weight_however_wrong_the_guesses(weights: dict[str, float]) -> None:
    sizes = {name: (10, 50) if number % 2 else (200, 600) for number, name in enumerate(weights)}
    done = served_tokens(weights, 6000, sizes)
    for name, weight in weights.items():
        flow, wanted = done[name] / done.total(), weight / sum(weights.values())
        assert flow == pytest.approx(wanted, rel=0.1, abs=0.005)


def test_an_empty_engine_is_for_whoever_comes() -> None:
    async def scenario() -> None:
        queue, flow = FairQueue(4, 10, 10), Flow()
        tickets = [queue.enter(flow, 1, 100) for _ in range(4)]
        assert all(ticket.inside and ticket.admitted is None for ticket in tickets)
        assert not queue.enter(flow, 1, 100).inside

    run(scenario())


def test_a_newcomer_goes_before_the_queue_of_a_heavy_key() -> None:
    async def scenario() -> None:
        queue, heavy, light = FairQueue(1, 100, 100), Flow(), Flow()
        first = queue.enter(heavy, 1, 1000)
        waiting = [queue.enter(heavy, 1, 1000) for _ in range(50)]
        mine = queue.enter(light, 1, 1000)
        queue.leave(heavy, first, 1000)
        assert mine.inside
        assert not any(ticket.inside for ticket in waiting)
        assert mine.admitted
        await asyncio.wait_for(mine.admitted, 1)

    run(scenario())


def test_a_newcomer_starts_before_what_a_heavy_key_has_waiting_in_the_engine() -> None:
    async def scenario() -> None:
        queue, heavy, light = FairQueue(100, 10, 10), Flow(), Flow()
        inside = [queue.enter(heavy, 1, 1000) for _ in range(20)]
        for ticket in inside[:5]:
            queue.leave(heavy, ticket, 1000)
        mine, later = queue.enter(light, 1, 1000), queue.enter(heavy, 1, 1000)
        assert inside[4].start == mine.start < inside[5].start < inside[-1].start < later.start

    run(scenario())


def test_who_pauses_saves_nothing_up() -> None:
    async def scenario() -> Counter[str]:
        queue, busy, back = FairQueue(1, 100, 100), Flow(), Flow()
        queue.leave(back, queue.enter(back, 1, 10), 10)
        for _ in range(1000):  # the other key works for long
            queue.leave(busy, queue.enter(busy, 1, 100), 100)
        running = queue.enter(busy, 1, 100)
        waiting = [("busy", busy, queue.enter(busy, 1, 100)) for _ in range(20)]
        waiting += [("back", back, queue.enter(back, 1, 100)) for _ in range(20)]
        owner, order = busy, Counter[str]()
        for _ in range(20):
            queue.leave(owner, running, 100)
            name, owner, running = next(entry for entry in waiting if entry[2].inside)
            waiting = [entry for entry in waiting if entry[2] is not running]
            order[name] += 1
        return order

    assert run(scenario())["busy"] >= 9


def test_too_many_waiting_are_refused_first_of_one_key_then_of_all() -> None:
    async def scenario() -> None:
        queue, heavy, light = FairQueue(1, 5, 3), Flow(), Flow()
        queue.enter(heavy, 1, 1)
        for _ in range(3):
            queue.enter(heavy, 1, 1)
        with pytest.raises(Refusal) as caught:
            queue.enter(heavy, 1, 1)
        assert "this key" in caught.value.message
        assert caught.value.status == 429
        for _ in range(2):
            queue.enter(light, 1, 1)
        with pytest.raises(Refusal) as caught:
            queue.enter(light, 1, 1)
        assert "all keys" in caught.value.message

    run(scenario())


def test_many_choices_take_many_places_but_never_more_than_there_are() -> None:
    async def scenario() -> None:
        queue, flow = FairQueue(4, 10, 10), Flow()
        large = queue.enter(flow, 9, 100)
        assert large.inside
        small = queue.enter(flow, 1, 1)
        assert not small.inside
        queue.leave(flow, large, 100)
        assert small.inside
        assert queue.taken == 1

    run(scenario())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3), st.booleans()), max_size=60), st.randoms())
def test_whatever_the_order_of_comings_and_leavings_nothing_is_lost(
    steps: list[tuple[str, int, bool]], draw: random.Random
) -> None:
    async def scenario() -> None:
        queue = FairQueue(3, 20, 10)
        shares = {"a": Flow(1), "b": Flow(2), "c": Flow(5)}
        inside: list[tuple[Flow, Ticket]] = []
        for name, slots, leaves in steps:
            with contextlib.suppress(Refusal):
                inside.append((shares[name], queue.enter(shares[name], slots, 10)))
            if leaves and inside:
                flow, ticket = inside.pop(draw.randrange(len(inside)))
                queue.leave(flow, ticket, draw.choice([None, 0, 50]))
            assert queue.taken == sum(ticket.slots for _, ticket in inside if ticket.inside) <= 3
            assert queue.waiting == sum(not ticket.inside for _, ticket in inside)
        for flow, ticket in inside:
            queue.leave(flow, ticket, None)
        assert (queue.taken, queue.waiting) == (0, 0)

    run(scenario())

"""The arithmetic of limits: buckets, their headers, and the division by replicas."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.guard.answers import Refusal
from apps.guard.key_usage import Bucket, KeyUsage, duration, per_replica
from apps.guard.settings import Limits


def test_a_minutes_worth_goes_at_once_and_then_steadily() -> None:
    bucket = Bucket("requests", 60, 60, 0)
    for _ in range(60):
        bucket.take(1, "alice", now=0)
    with pytest.raises(Refusal) as caught:
        bucket.take(1, "alice", now=0.4)
    assert (caught.value.status, caught.value.headers["retry-after"]) == (429, "1")
    bucket.take(1, "alice", now=1.0)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 500)), max_size=200), st.integers(1, 1000))
def test_never_more_than_the_limit_and_what_filled_in_between(steps: list[tuple[float, int]], limit: int) -> None:
    bucket, now, taken = Bucket("tokens", limit, limit, 0), 0.0, 0.0
    for wait_s, amount in steps:
        now += wait_s
        with contextlib.suppress(Refusal):
            bucket.take(min(amount, limit), "alice", now)
            taken += min(amount, limit)
    assert taken <= limit + now * limit / 60 + 1e-6


@given(st.integers(1, 1000), st.integers(1, 5000), st.integers(0, 5000))
def test_after_the_wait_that_is_said_it_is_let_in(limit: int, amount: int, debt: int) -> None:
    bucket = Bucket("tokens", limit, -debt, 0)
    with pytest.raises(Refusal) as caught:
        bucket.take(amount, "alice", 0)
    bucket.take(amount, "alice", float(caught.value.headers["retry-after"]))


def test_without_a_limit_nothing_is_taken_or_said() -> None:
    usage = KeyUsage("alice")
    usage.set_limits(Limits(), 1)
    usage.charge_prompt(10**9)
    assert usage.headers() == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0ms"), (0.02, "20ms"), (1, "1s"), (1.52, "1.5s"), (60, "1m0s"), (360.4, "6m0s"), (3725, "62m5s")]
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_headers_have_openais_names() -> None:
    bucket = Bucket("tokens", 100, 25.4, 0)
    assert bucket.headers(0) == [
        (b"x-ratelimit-limit-tokens", b"100"),
        (b"x-ratelimit-remaining-tokens", b"25"),
        (b"x-ratelimit-reset-tokens", b"44.8s"),
    ]


def test_a_replica_has_its_part_of_what_is_counted_and_all_of_what_is_not() -> None:
    whole = Limits(requests_per_minute=100, tokens_per_minute=5, concurrent_requests=8, max_tokens=100, context_tokens=1000)
    assert per_replica(whole, 8) == Limits(
        requests_per_minute=12, tokens_per_minute=1, concurrent_requests=1, max_tokens=100, context_tokens=1000
    )
    assert per_replica(Limits(), 8) == Limits()


def test_a_keys_own_limits_win_also_where_they_say_none() -> None:
    default = Limits(requests_per_minute=100, max_tokens=50)
    own = Limits.model_validate({"requests_per_minute": None, "tokens_per_minute": 7})
    assert default.overridden_by(own) == Limits(tokens_per_minute=7, max_tokens=50)


def test_limits_that_change_leave_what_was_used() -> None:
    usage = KeyUsage("alice")
    usage.set_limits(Limits(requests_per_minute=10), 1)
    for _ in range(8):
        usage.begin()
    usage.set_limits(Limits(requests_per_minute=20), 1)
    assert (b"x-ratelimit-remaining-requests", b"12") in usage.headers()
    usage.set_limits(Limits(), 1)
    assert usage.headers() == []

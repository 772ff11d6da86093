"""What a key has used on one replica: buckets that fill steadily, its requests that run, its place among the keys.

A bucket holds a minute's worth. Output is counted as it streams and a prompt's estimate is corrected at the end, so a level may
fall below zero; nothing more is let in until it has risen again.
"""

import math
import time
from dataclasses import dataclass, field

from apps.guard.answers import Headers, Refusal
from apps.guard.fair import Flow
from apps.guard.generation_request import GenerationRequest
from apps.guard.settings import Limits

MINUTE = 60.0
_FIRST_ESTIMATE_TOKENS = 256.0  # of an answer's length, before this key had one
_MEMORY = 0.1  # weight of the latest answer in the mean


@dataclass(slots=True)
class Bucket:
    """`limit` units of `what` per minute. `now` is in seconds on a clock that never goes back."""

    what: str
    limit: float
    level: float
    filled_at: float

    def fill(self, now: float) -> float:
        """Bring the level up to date, and return it."""
        self.level = min(self.limit, self.level + (now - self.filled_at) * self.limit / MINUTE)
        self.filled_at = now
        return self.level

    def take(self, amount: float, key: str, now: float) -> None:
        """Raise `Refusal` 429 if not that much is there, with the seconds after which it is."""
        if self.fill(now) < min(amount, self.limit):
            wait_s = self._seconds_until(amount)
            message = (
                f"Rate limit reached for key {key} on {self.what} per minute: limit {self.limit:g}, "
                f"{max(0.0, self.level):.0f} left, {amount:.0f} needed. Try again in {duration(wait_s)}."
            )
            retry = {"retry-after": str(max(1, math.ceil(wait_s)))}
            raise Refusal(429, message, "rate_limit_exceeded", kind=self.what, headers=retry)
        self.level -= amount

    def headers(self, now: float) -> Headers:
        """`x-ratelimit-*` as OpenAI names and forms them."""
        values = {
            "limit": f"{self.limit:.0f}",
            "remaining": str(max(0, round(self.fill(now)))),
            "reset": duration(self._seconds_until(self.limit)),
        }
        return [(f"x-ratelimit-{name}-{self.what}".encode(), value.encode()) for name, value in values.items()]

    def _seconds_until(self, amount: float) -> float:
        """Seconds from the last fill until so much is there. An amount above the limit counts as the limit."""
        return max(0.0, (min(amount, self.limit) - self.level) * MINUTE / self.limit)


def duration(seconds: float) -> str:
    """A duration as OpenAI's headers have it: `20ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{round(1000 * seconds)}ms"
    if seconds < MINUTE:
        return f"{round(seconds, 1):g}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s"


@dataclass(eq=False)
class KeyUsage:
    """`limits` are a replica's part of the key's; a bucket is None without a limit."""

    name: str
    limits: Limits = field(default_factory=Limits)
    flow: Flow = field(default_factory=Flow)
    active: int = 0
    requests: Bucket | None = None
    tokens: Bucket | None = None
    mean_output: float = _FIRST_ESTIMATE_TOKENS

    def set_limits(self, limits: Limits, weight: float) -> None:
        """Take the limits of the key's entry, which may have changed; what was used stays used."""
        self.flow.weight = weight
        if limits != self.limits:
            self.limits = limits
            now = time.monotonic()
            self.requests = _bucket("requests", self.requests, limits.requests_per_minute, now)
            self.tokens = _bucket("tokens", self.tokens, limits.tokens_per_minute, now)

    def begin(self) -> None:
        """Count one more request. Raises `Refusal` 429; then it does not count."""
        limit = self.limits.concurrent_requests
        if limit is not None and self.active >= limit:
            message = f"Key {self.name} has {self.active} requests running or waiting, as many as it is allowed."
            raise Refusal(429, message, "rate_limit_exceeded", kind="requests", headers={"retry-after": "1"})
        if self.requests:
            self.requests.take(1, self.name, time.monotonic())
        self.active += 1

    def end(self) -> None:
        """Count one request less."""
        self.active -= 1

    def charge_prompt(self, tokens: int) -> None:
        """Take a prompt's tokens. Raises `Refusal` 429 if the key has not that many left."""
        if self.tokens:
            self.tokens.take(tokens, self.name, time.monotonic())

    def reconcile(self, charged: int, used: int) -> None:
        """Replace what a request was charged by what it used."""
        if self.tokens:
            self.tokens.level += charged - used

    def estimate(self, asked: GenerationRequest) -> float:
        """Tokens of the answers to a request, as this key's answers were long so far."""
        longest = self.mean_output if asked.max_tokens is None else asked.max_tokens
        return min(self.mean_output, longest) * asked.choices

    def update_mean(self, output_tokens: float) -> None:
        """Take an answer's length into the mean."""
        self.mean_output += _MEMORY * (output_tokens - self.mean_output)

    def headers(self) -> Headers:
        """`x-ratelimit-*` as of now."""
        now = time.monotonic()
        return [header for bucket in (self.requests, self.tokens) if bucket for header in bucket.headers(now)]


def per_replica(limits: Limits, replicas: int) -> Limits:
    """A replica's part of limits that hold for all of them together; at least 1 each. Those of one request stay whole."""
    shared = ("requests_per_minute", "tokens_per_minute", "concurrent_requests")
    return limits.model_copy(
        update={name: max(1, value // replicas) for name in shared if (value := getattr(limits, name)) is not None}
    )


def _bucket(what: str, before: Bucket | None, limit: int | None, now: float) -> Bucket | None:
    if limit is None:
        return None
    used = before.limit - before.fill(now) if before else 0
    return Bucket(what, limit, limit - used, now)

"""What a key has used on one replica: its buckets, its requests that run, its place among the keys."""

import time
from dataclasses import dataclass, field

from apps.guard.answers import Headers, Refusal
from apps.guard.fair import Flow
from apps.guard.generation_request import GenerationRequest
from apps.guard.rates import Bucket, headers, take
from apps.guard.settings import Limits

_FIRST_ESTIMATE_TOKENS = 256.0  # of an answer's length, before this key had one
_MEMORY = 0.1  # weight of the latest answer in the mean


@dataclass(eq=False)
class KeyUsage:
    """`limits` are a replica's part of the key's."""

    name: str
    limits: Limits
    flow: Flow = field(default_factory=Flow)
    active: int = 0
    requests: Bucket | None = None
    tokens: Bucket | None = None
    mean_output: float = _FIRST_ESTIMATE_TOKENS

    def set_limits(self, limits: Limits, weight: float) -> None:
        """Take the limits of the key's entry, which may have changed; what was used stays used."""
        self.flow.weight = weight
        if limits != self.limits or (self.requests is None and self.tokens is None):
            self.limits = limits
            now = time.monotonic()
            self.requests = _bucket(self.requests, limits.requests_per_minute, now)
            self.tokens = _bucket(self.tokens, limits.tokens_per_minute, now)

    def begin(self) -> None:
        """Count one more request. Raises `Refusal` 429; then it does not count."""
        limit = self.limits.concurrent_requests
        if limit is not None and self.active >= limit:
            message = f"Key {self.name} has {self.active} requests running or waiting, as many as it is allowed."
            raise Refusal(429, message, "rate_limit_exceeded", kind="requests", headers={"retry-after": "1"})
        take(self.requests, 1, "requests", self.name, time.monotonic())
        self.active += 1

    def end(self) -> None:
        """Count one request less."""
        self.active -= 1

    def charge_prompt(self, tokens: int) -> None:
        """Take a prompt's tokens. Raises `Refusal` 429 if the key has not that many left."""
        take(self.tokens, tokens, "tokens", self.name, time.monotonic())

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
        return headers(self.requests, b"requests", now) + headers(self.tokens, b"tokens", now)


def per_replica(limits: Limits, replicas: int) -> Limits:
    """A replica's part of limits that hold for all of them together; at least 1 each. Those of one request stay whole."""

    def part(value: int | None) -> int | None:
        return None if value is None else max(1, value // replicas)

    return limits.model_copy(
        update={
            "requests_per_minute": part(limits.requests_per_minute),
            "tokens_per_minute": part(limits.tokens_per_minute),
            "concurrent_requests": part(limits.concurrent_requests),
        }
    )


def _bucket(before: Bucket | None, limit: int | None, now: float) -> Bucket | None:
    if limit is None:
        return None
    if before is None:
        return Bucket.full(limit, now)
    before.fill(now)
    return Bucket(limit, min(limit, before.level + limit - before.limit), now)

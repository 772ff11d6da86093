"""How much a key may still do this minute: buckets that fill steadily, and the headers that tell the client. Pure arithmetic.

A bucket holds a minute's worth. Output is counted as it streams and a prompt's estimate is corrected at the end, so a level may
fall below zero; nothing more is let in until it has risen again.
"""

from dataclasses import dataclass

from apps.guard.answers import Headers, Refusal

MINUTE = 60.0


@dataclass(slots=True)
class Bucket:
    """`limit` units per minute. `now` is in seconds on a clock that never goes back."""

    limit: float
    level: float
    filled_at: float

    @classmethod
    def full(cls, limit: float, now: float) -> "Bucket":
        return cls(limit, limit, now)

    def fill(self, now: float) -> float:
        """Bring the level up to date, and return it."""
        level = self.level + (now - self.filled_at) * self.limit / MINUTE
        self.level = level if level < self.limit else self.limit
        self.filled_at = now
        return self.level

    def seconds_until(self, amount: float) -> float:
        """Seconds from the last fill until so much is there. An amount above the limit counts as the limit."""
        return max(0.0, (min(amount, self.limit) - self.level) * MINUTE / self.limit)


def take(bucket: Bucket | None, amount: float, what: str, key: str, now: float) -> None:
    """Take from a bucket; None is without a limit.

    Raises:
        Refusal: 429 if not that much is there; with the seconds after which it is.
    """
    if bucket is None:
        return
    if bucket.fill(now) < min(amount, bucket.limit):
        wait_s = bucket.seconds_until(amount)
        message = (
            f"Rate limit reached for key {key} on {what} per minute: limit {bucket.limit:g}, "
            f"{max(0.0, bucket.level):.0f} left, {amount:.0f} needed. Try again in {duration(wait_s)}."
        )
        raise Refusal(429, message, "rate_limit_exceeded", kind=what, headers={"retry-after": str(_whole_seconds(wait_s))})
    bucket.level -= amount


def headers(bucket: Bucket | None, what: bytes, now: float) -> Headers:
    """`x-ratelimit-*` as OpenAI names and forms them; none without a limit."""
    if bucket is None:
        return []
    left = max(0, round(bucket.fill(now)))
    return [
        (b"x-ratelimit-limit-" + what, b"%d" % bucket.limit),
        (b"x-ratelimit-remaining-" + what, b"%d" % left),
        (b"x-ratelimit-reset-" + what, duration(bucket.seconds_until(bucket.limit)).encode()),
    ]


def duration(seconds: float) -> str:
    """A duration as OpenAI's headers have it: `20ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{round(1000 * seconds)}ms"
    if seconds < MINUTE:
        return f"{round(seconds, 1):g}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s"


def _whole_seconds(seconds: float) -> int:
    return max(1, -int(-seconds // 1))

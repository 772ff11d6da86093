"""What Prometheus sees of the guard, through Ray's own metrics: requests and tokens of each key, and who waits.

Counts are gathered in the request's path as plain numbers and given to Ray every few seconds: one call to Ray costs more than
the whole guard. The number of keys that have a series of their own is bounded; further ones count as `other`.
"""

from collections import Counter as Tally

from ray.util.metrics import Counter, Gauge

_MAX_KEYS = 100
OTHER = "other"


class GuardMetrics:
    """The metrics of one process that is part of a Ray cluster."""

    def __init__(self) -> None:
        self._requests = Counter(
            "guard_requests_total",
            description="Requests that the guard has seen end, by key and status",
            tag_keys=("key", "status"),
        )
        self._tokens = Counter(
            "guard_tokens_total", description="Tokens of prompts and answers, by key", tag_keys=("key", "kind")
        )
        self._gauges = {
            name: Gauge(f"guard_{name}", description=text)
            for name, text in {
                "running_sequences": "Sequences that the guard has let into the engine",
                "waiting_requests": "Requests that wait for the engine to have room",
                "lost_audit_lines": "Lines of the audit that could not be written",
                "next_key_expiry_seconds": "When the first name is left without a usable key, as Unix time; 0 if none ever is",
            }.items()
        }
        self._keys: set[str] = set()

    def publish(self, requests: "Tally[tuple[str, int]]", tokens: "Tally[tuple[str, str]]", gauges: dict[str, float]) -> None:
        """Add what was counted since the last time."""
        for (key, status), count in requests.items():
            self._requests.inc(count, {"key": self._series(key), "status": str(status)})
        for (key, kind), count in tokens.items():
            if count > 0:
                self._tokens.inc(count, {"key": self._series(key), "kind": kind})
        for name, value in gauges.items():
            self._gauges[name].set(value)

    def _series(self, key: str) -> str:
        if key not in self._keys and len(self._keys) >= _MAX_KEYS:
            return OTHER
        self._keys.add(key)
        return key

"""Series of keys in Prometheus: bounded in number, however many keys there are."""

from collections import Counter
from typing import Any, ClassVar

import pytest

from apps.guard import metrics


class Recorder:
    """A stand-in for Ray's metric that keeps its counts."""

    counts: ClassVar[Counter[str]] = Counter()

    def __init__(self, name: str, **_: Any) -> None:
        pass

    def inc(self, count: int, tags: dict[str, str]) -> None:
        self.counts[tags["key"]] += count

    def set(self, value: float) -> None:
        pass


def test_beyond_a_hundred_keys_the_rest_is_one_series(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Recorder.counts
    monkeypatch.setattr(metrics, "Counter", Recorder)
    monkeypatch.setattr(metrics, "Gauge", Recorder)
    guard_metrics = metrics.GuardMetrics()
    for _ in range(2):  # who has a series keeps it
        guard_metrics.publish(Counter({(f"key-{number}", 200): 1 for number in range(150)}), Counter(), {})
    assert len(counts) == 101
    assert counts[metrics.OTHER] == 100
    assert counts["key-0"] == 2

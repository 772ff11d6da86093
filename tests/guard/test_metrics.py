"""Series of keys in Prometheus: bounded in number, however many keys there are."""

from collections import Counter
from typing import Any, ClassVar

import pytest

from apps.guard import metrics


class Recorder:
    """In place of Ray's metric: what it was told."""

    told: ClassVar[Counter[str]] = Counter()

    def __init__(self, name: str, **_: Any) -> None:
        pass

    def inc(self, count: int, tags: dict[str, str]) -> None:
        self.told[tags["key"]] += count

    def set(self, value: float) -> None:
        pass


def test_beyond_a_hundred_keys_the_rest_is_one_series(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Recorder.told
    monkeypatch.setattr(metrics, "Counter", Recorder)
    monkeypatch.setattr(metrics, "Gauge", Recorder)
    found = metrics.GuardMetrics()
    for _ in range(2):  # who has a series keeps it
        found.publish(Counter({(f"key-{number}", 200): 1 for number in range(150)}), Counter(), {})
    assert len(told) == 101
    assert told[metrics.OTHER] == 100
    assert told["key-0"] == 2

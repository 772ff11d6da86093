"""Metrics of a prefetch, exported through Ray: bytes by their origin, their rate, and what went wrong."""

from ray.util.metrics import Counter, Gauge

from apps.weights.progress import Progress

# Ray forgets a metric with its object, so it must outlive the call that counts.
_REFUSED = Counter("weights_refused_total", description="Starts refused because weights did not match their manifest")


class HostMetrics:
    """Metrics of one host's copy."""

    def __init__(self, host: str) -> None:
        self._tags = {"host": host}
        self._bytes = Counter(
            "weights_read_bytes_total",
            description="Bytes of model weights that a host has read, from the bucket or from other hosts",
            tag_keys=("host", "source"),
        )
        self._again = {
            name: Counter(f"weights_{name}_total", description=text, tag_keys=("host",))
            for name, text in {
                "retries": "Ranges of model weights that a host had to request again",
                "stalls": "Of those, the ranges that delivered nothing for too long",
            }.items()
        }
        self._counted = dict.fromkeys(self._again, 0)
        self._gauges = {
            name: Gauge(f"weights_{name}", description=text, tag_keys=("host",))
            for name, text in {
                "bytes_per_second": "Mean rate at which a host has read model weights since it began",
                "verify_seconds": "Time that a host took to compare the weights that were there with their manifest",
            }.items()
        }

    def read(self, size_bytes: int, source: str) -> None:
        """Count bytes that came from `bucket` or from `hosts`."""
        self._bytes.inc(size_bytes, {**self._tags, "source": source})

    def verified(self, seconds: float) -> None:
        """Set how long it took to compare what was there."""
        self._gauges["verify_seconds"].set(seconds, self._tags)

    def observe(self, progress: Progress) -> None:
        """Export the figures of a copy's progress."""
        self._gauges["bytes_per_second"].set(progress.rate, self._tags)
        for name, total in (("retries", progress.retries), ("stalls", progress.stalls)):
            if more := total - self._counted[name]:
                self._again[name].inc(more, self._tags)
                self._counted[name] = total


def count_refusal() -> None:
    """Count a replica that does not start because its weights do not match their manifest."""
    _REFUSED.inc()

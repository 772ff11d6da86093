"""What Prometheus sees of a prefetch, through Ray's own metrics: bytes by where they came from, and ranges asked for again."""

from ray.util.metrics import Counter


class HostMetrics:
    """Counters of one host's copy."""

    def __init__(self, host: str) -> None:
        self._tags = {"host": host}
        self._bytes = Counter(
            "weights_read_bytes_total",
            description="Bytes of model weights that a host has read, from the bucket or from other hosts",
            tag_keys=("host", "source"),
        )
        self._retries = Counter(
            "weights_retries_total",
            description="Ranges of model weights that a host had to ask for again",
            tag_keys=("host",),
        )
        self._told_retries = 0

    def read(self, size_bytes: int, source: str) -> None:
        """Bytes came from `bucket` or from `hosts`."""
        self._bytes.inc(size_bytes, {**self._tags, "source": source})

    def retried(self, total: int) -> None:
        """`total` ranges were asked for again since the start."""
        if total > self._told_retries:
            self._retries.inc(total - self._told_retries, self._tags)
            self._told_retries = total

"""Metrics of a prefetch, exported through Ray: bytes by their origin, their rate, and what went wrong."""

from ray.util.metrics import Counter, Gauge

from apps.weights.progress import Progress
from apps.weights.retry import StalledError, TransientError

# Ray forgets a metric with its object, so they live as long as the process.
REFUSED = Counter("weights_refused_total", "Starts refused because weights did not match their manifest")
_READ = Counter(
    "weights_read_bytes_total",
    "Bytes of model weights that a host has read, from the bucket or from other hosts",
    tag_keys=("host", "source"),
)
_RETRIES = Counter("weights_retries_total", "Ranges of model weights that a host had to request again", ("host",))
_STALLS = Counter("weights_stalls_total", "Of those, the ranges that delivered nothing for too long", ("host",))
_RATE = Gauge("weights_bytes_per_second", "Mean rate at which a host has read model weights since it began", ("host",))
_VERIFIED = Gauge(
    "weights_verify_seconds", "Time that a host took to compare the weights that were there with their manifest", ("host",)
)


class HostProgress(Progress):
    """Progress of one host's copy, shown in metrics."""

    def __init__(self, host: str) -> None:
        super().__init__()
        self._tags = {"host": host}

    def verified(self, seconds: float) -> None:
        """Set how long it took to compare what was there."""
        _VERIFIED.set(seconds, self._tags)

    def read(self, size_bytes: int, source: str) -> None:
        """Count bytes that came from `bucket` or from `hosts`."""
        _READ.inc(size_bytes, {**self._tags, "source": source})
        _RATE.set(self.rate, self._tags)

    def retried(self, error: TransientError) -> None:
        super().retried(error)
        _RETRIES.inc(tags=self._tags)
        if isinstance(error, StalledError):
            _STALLS.inc(tags=self._tags)

"""Metrics of a replica's slice, exported through Ray: the hosts that it needs, and those that answer."""

from ray.util.metrics import Gauge


class SliceMetrics:
    """Gauges of the slice that one replica holds or waits for."""

    def __init__(self, slice_name: str, wanted: int) -> None:
        self._tags = {"slice": slice_name}
        self._ready = Gauge("slice_hosts_ready", description="Hosts of a replica's slice that answer", tag_keys=("slice",))
        self._wanted = Gauge("slice_hosts_wanted", description="Hosts of a replica's slice when whole", tag_keys=("slice",))
        self._hosts = wanted

    def ready(self, hosts: int) -> None:
        """Set how many hosts answer now. Call it again and again: Ray exports only what was set since its last export."""
        self._ready.set(hosts, self._tags)
        self._wanted.set(self._hosts, self._tags)

"""What Prometheus sees of the compile cache, through Ray's own metrics."""

from ray.util.metrics import Gauge

_HIT = Gauge("compile_cache_hit", description="1 where a replica found its compiled programs in the bucket, else 0")
_PROGRAMS = Gauge("compile_cache_programs", description="Compiled programs on a host's disk", tag_keys=("host",))


def found(hit: bool) -> None:
    """What a replica's start found in the bucket."""
    _HIT.set(int(hit))


def counted(host: str, programs: int) -> None:
    """So many programs are on a host's disk."""
    _PROGRAMS.set(programs, {"host": host})

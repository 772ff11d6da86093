"""What Prometheus sees of the compile cache, through Ray's own metrics."""

from ray.util.metrics import Gauge

_HIT = Gauge("compile_cache_hit", description="1 where a replica found its compiled programs in the bucket, else 0")
_PROGRAMS = Gauge("compile_cache_programs", description="Compiled programs on a host's disk", tag_keys=("host",))


def observe(host: str, programs: int, hit: bool | None) -> None:
    """How many programs are on a host's disk, and what the start found in the bucket (None: it could not be asked).

    To be said again and again: Ray exports what was set since its last export.
    """
    _PROGRAMS.set(programs, {"host": host})
    if hit is not None:
        _HIT.set(int(hit))

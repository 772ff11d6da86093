"""Notice within seconds that a host of a replica's slice is gone, and say so to clients and to Serve.

Ray declares a dead host dead after about 15 s, and Serve keeps a replica HEALTHY whose other hosts are gone: only its own
process is checked. Here a small actor on each host answers the replica every two seconds.
"""

import asyncio
import logging
import time
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from apps.errors import OperationError
from apps.slice.claim import HeldSlice

logger = logging.getLogger("ray.serve")
_BEAT_S = 2.0
_ANSWER_S = 5.0
_MISSES = 3  # in a row: a host that is only slow for a moment is not lost


@ray.remote(num_cpus=0)
class Pulse:
    """On each host; that it answers is all that it says."""

    def beat(self) -> int:
        return int(ray.get_runtime_context().get_node_labels()["ray.io/tpu-worker-id"])


class Watchdog:
    """Watches the hosts of one held slice from inside the replica."""

    def __init__(self, held: HeldSlice) -> None:
        self._held = held
        self._lost: str | None = None
        self._pulses: dict[int, Any] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.broken = asyncio.Event()

    async def start(self) -> None:
        """Place the actors and begin to watch. Returns when each has answered once."""
        group = self._held.placement_group
        pulses = [
            Pulse.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, bundle_index)).remote()  # type: ignore[attr-defined]
            for bundle_index in range(self._held.shape.hosts)
        ]
        worker_ids = await asyncio.gather(*(pulse.beat.remote() for pulse in pulses))
        self._pulses = dict(zip(worker_ids, pulses, strict=True))
        self._tasks = [asyncio.create_task(self._watch(worker_id, pulse)) for worker_id, pulse in self._pulses.items()]

    @property
    def placement_group(self) -> PlacementGroup:
        """The slice's own: one bundle for each host."""
        return self._held.placement_group

    def check(self) -> None:
        """Raise `OperationError` if a host is lost; for the replica's `check_health`."""
        if self._lost:
            raise OperationError(self._lost)

    async def _watch(self, worker_id: int, pulse: Any) -> None:
        last_seen = time.monotonic()
        misses = 0
        while misses < _MISSES and not self.broken.is_set():
            await asyncio.sleep(_BEAT_S)
            if await _answers(pulse):
                last_seen, misses = time.monotonic(), 0
            else:
                misses += 1
        if not self.broken.is_set():
            self._declare_lost(worker_id, time.monotonic() - last_seen)

    def _declare_lost(self, worker_id: int, silent_s: float) -> None:
        self._lost = (
            f"slice {self._held.name}: host {worker_id} is lost, without a sign of life for {silent_s:.1f} s; "
            "the slice works only as a whole, so the replica must be started anew"
        )
        logger.error(self._lost)
        self.broken.set()


async def _answers(pulse: Any) -> bool:
    try:
        await asyncio.wait_for(pulse.beat.remote(), _ANSWER_S)
    except (RayError, TimeoutError):
        return False
    return True

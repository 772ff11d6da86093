"""Drain a whole slice when one of its hosts is about to be taken away: Serve then moves the replica while responses finish.

Ray marks a node as draining when its pod is deleted or its spot machine is preempted. No public API lists draining nodes: this
is the only module that uses Ray's private GCS client (pinned: Ray 2.60.0). If that goes, a lost host is still noticed, only
later.
"""

import asyncio
import logging
import math
import time
from collections.abc import Collection

import ray
from ray.core.generated import autoscaler_pb2

from apps.slice.reservation import ReservedSlice

logger = logging.getLogger("ray.serve")
_NO_END = 0  # Ray's own value for it
_ERROR_S = 2.0  # before the end, for an error to reach the clients whose responses still run


class PreemptionHandler:
    """Polls the draining nodes of one reserved slice. `broken` is set shortly before they are gone."""

    def __init__(self, reserved: ReservedSlice, broken: asyncio.Event) -> None:
        self._slice = reserved
        self._broken = broken
        self._handled = False
        self._end: asyncio.Task[None] | None = None

    async def poll(self) -> None:
        """Drain the other hosts as soon as one is draining."""
        if self._handled:
            return
        try:
            left_s = await asyncio.to_thread(draining)
        except Exception as error:  # a private call: without it a lost host is still noticed, only later
            logger.warning(f"slice {self._slice.name}: Ray does not report which hosts are draining: {error}")
            return
        leaving = [host for host in self._slice.hosts if host.node_id in left_s]
        if not leaving:
            return
        soonest_s = min(left_s[host.node_id] for host in leaving)
        numbers = ", ".join(str(host.worker_id) for host in leaving)
        when = f"in {soonest_s:.0f} s" if math.isfinite(soonest_s) else "at a time that Ray does not report"
        why = f"slice {self._slice.name}: host {numbers} will be gone {when}, and the slice works only as a whole"
        logger.warning(why)
        self._handled = True
        if math.isfinite(soonest_s):
            self._end = asyncio.create_task(self._end_responses(soonest_s - _ERROR_S))
        await asyncio.to_thread(drain, [h.node_id for h in self._slice.hosts if h not in leaving], soonest_s, why)

    async def _end_responses(self, after_s: float) -> None:
        await asyncio.sleep(max(0.0, after_s))
        self._broken.set()


def draining() -> dict[str, float]:
    """Nodes that will be gone: seconds left by node id (infinity where no end was given)."""
    ends_ms: dict[str, int] = _gcs().get_draining_nodes()
    now = time.time()
    return {node_id: end_ms / 1000 - now if end_ms != _NO_END else math.inf for node_id, end_ms in ends_ms.items()}


def drain(node_ids: Collection[str], left_s: float, why: str) -> None:
    """Mark nodes as draining: Serve moves their replicas away while they finish their responses."""
    end_ms = int((time.time() + left_s) * 1000) if math.isfinite(left_s) else _NO_END
    for node_id in node_ids:
        _gcs().drain_node(node_id, autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, why, end_ms)


def _gcs() -> "ray._raylet.GcsClient":
    return ray._private.worker.global_worker.gcs_client

"""Notice within seconds that a host of a replica's slice is gone, and report it to clients and to Serve.

Ray declares a dead host dead after about 15 s, and Serve keeps a replica HEALTHY whose other hosts are gone: only its own
process is checked. Here the replica connects to Ray's node manager on each host every two seconds: a dead one refuses or does
not answer. What Ray has declared dead, or has replaced by another node, counts as dead too.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup

from apps.common.errors import OperationError
from apps.slice.hosts import Host, living_hosts
from apps.slice.placement import wanted_slice
from apps.slice.preemption import PreemptionHandler
from apps.slice.reservation import ReservedSlice, SliceMetrics, reserve_slice

logger = logging.getLogger("ray.serve")
_DEFAULT_TIMEOUT_S = 1800.0  # for a slice's hosts: a node pool that scales from zero takes about 15 minutes
_POLL_S = 2.0
_CONNECT_S = 3.0
_MAX_MISSES = 3  # in a row: a host that is only slow for a moment is not lost


async def reserve_and_watch(config: Mapping[str, Any]) -> "Watchdog | None":
    """Reserve the slice of a config and watch it; None for a config without a slice.

    Raises:
        OperationError: as `reserve_slice`.
    """
    shape = wanted_slice(config)
    if shape is None:
        return None
    bundle = (config.get("placement_group_config") or {}).get("bundle_per_worker") or {}
    timeout_s = (config.get("experimental_configs") or {}).get("slice_timeout_s", _DEFAULT_TIMEOUT_S)
    return Watchdog(await reserve_slice(shape, bundle, timeout_s))


class Watchdog:
    """Watches the hosts of one reserved slice from inside the replica. `broken` is set once a host is lost, for good."""

    def __init__(self, reserved: ReservedSlice) -> None:
        self.broken = asyncio.Event()
        self._slice = reserved
        self._preemption = PreemptionHandler(reserved, self.broken)
        self._metrics = SliceMetrics(reserved.name, reserved.shape.hosts)
        self._lost: str | None = None
        self._task = asyncio.create_task(self._watch())

    @property
    def placement_group(self) -> PlacementGroup:
        """The slice's placement group: one bundle for each host."""
        return self._slice.placement_group

    @property
    def node_ids(self) -> list[str]:
        """Ray's node ids of the slice's hosts, by worker id."""
        return [host.node_id for host in self._slice.hosts]

    def check(self) -> None:
        """Raise `OperationError` if a host is lost; for the replica's `check_health`."""
        if self._lost:
            raise OperationError(self._lost)

    async def _watch(self) -> None:
        misses = dict.fromkeys(self._slice.hosts, 0)
        seen = dict.fromkeys(self._slice.hosts, time.monotonic())
        while not self._lost:
            await asyncio.sleep(_POLL_S)
            await self._preemption.poll()
            alive = await self._answering()
            self._metrics.ready(len(alive))
            for host in self._slice.hosts:
                misses[host] = 0 if host in alive else misses[host] + 1
                seen[host] = time.monotonic() if host in alive else seen[host]
                if misses[host] >= _MAX_MISSES:
                    self._declare_lost(host, time.monotonic() - seen[host])

    async def _answering(self) -> set[Host]:
        nodes = await asyncio.to_thread(ray.nodes)
        known = set(living_hosts(nodes, self._slice.shape.pod_type).get(self._slice.name, {}).values())
        candidates = [host for host in self._slice.hosts if host in known]
        answered = await asyncio.gather(*(_answers(host) for host in candidates))
        return {host for host, answer in zip(candidates, answered, strict=True) if answer}

    def _declare_lost(self, host: Host, silent_s: float) -> None:
        self._lost = (
            f"slice {self._slice.name}: host {host.worker_id} at {host.address} is lost, without an answer for "
            f"{silent_s:.1f} s; the slice works only as a whole, so the replica must be restarted"
        )
        logger.error(self._lost)
        self.broken.set()


async def _answers(host: Host) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host.address, host.port), _CONNECT_S)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True

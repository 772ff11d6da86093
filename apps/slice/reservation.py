"""Reserve one whole slice for a replica: the steps that Ray leaves out between "a host has joined" and "the engine may start".

A replica asks Ray for its slice's head resource, `TPU-v6e-16-head`, of which only worker 0 of each slice has one. So it is
placed on a slice of its own, never on the cluster's head, waits as long as there is none (Ray's own reservation gives up
after 100 s), and is seen by the autoscaler. This module does the rest: wait for the other hosts, then reserve them all as one.
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.metrics import Gauge
from ray.util.placement_group import PlacementGroup
from ray.util.tpu import slice_placement_group

from apps.common.errors import OperationError
from apps.slice.hosts import SLICE_NAME, Host, describe_missing, living_hosts, missing
from apps.slice.topology import Slice

logger = logging.getLogger("ray.serve")
_POLL_S, _QUARANTINE_POLL_S = 1.0, 2.0
_QUARANTINE_MAX_S = 600.0
_LOG_EVERY_S = 15.0
_PREFIX = "slice:"  # of the placement groups' names


class SliceMetrics:
    """Gauges of the slice that one replica holds or waits for: the hosts that it needs, and those that answer."""

    def __init__(self, slice_name: str, wanted: int) -> None:
        self._tags = {"slice": slice_name}
        self._ready = Gauge("slice_hosts_ready", description="Hosts of a replica's slice that answer", tag_keys=("slice",))
        self._wanted = Gauge("slice_hosts_wanted", description="Hosts of a replica's slice when whole", tag_keys=("slice",))
        self._hosts = wanted

    def ready(self, hosts: int) -> None:
        """Set how many hosts answer now. Call it again and again: Ray exports only what was set since its last export."""
        self._ready.set(hosts, self._tags)
        self._wanted.set(self._hosts, self._tags)


@dataclass(frozen=True)
class ReservedSlice:
    """A slice that is whole and reserved. It is freed when the replica exits."""

    name: str
    shape: Slice
    placement_group: PlacementGroup
    hosts: tuple[Host, ...]


async def reserve_slice(shape: Slice, bundle: dict[str, float], timeout_s: float) -> ReservedSlice:
    """Wait until every host of the slice that this process is on has joined, then reserve them all.

    Args:
        shape: the slice that is needed.
        bundle: resources that each host offers beside its chips, such as `{"CPU": 8}`.
        timeout_s: the longest wait for hosts, and again for their chips to be free.

    Raises:
        OperationError: hosts are missing or busy at the deadline, or another slice is whole while this one is not (Serve then
            restarts the replica, and this slice is quarantined so that the replica lands on the other one).
    """
    name = _own_slice(shape)
    hosts = await _wait_for_hosts(name, shape, timeout_s)
    group = slice_placement_group(
        topology=shape.topology,
        accelerator_version=shape.pod_type.rpartition("-")[0],
        resources_per_bundle={**bundle, "TPU": shape.chips_per_host},
        name=_PREFIX + name,
        bundle_label_selector=[{SLICE_NAME: name}] * shape.hosts,
    ).placement_group
    try:
        await asyncio.wait_for(group.ready(), timeout_s)
    except TimeoutError:
        ray.util.remove_placement_group(group)
        raise OperationError(await _why_not_free(name, shape, timeout_s)) from None
    logger.info(f"slice {name} is reserved: {shape.hosts} hosts, {shape.chips} chips")
    return ReservedSlice(name, shape, group, hosts)


async def _why_not_free(name: str, shape: Slice, timeout_s: float) -> str:
    hosts = (await _slices(shape)).get(name, {})
    if missing(hosts, shape.hosts):  # a host died during the wait for its chips
        return f"{describe_missing(f'slice {name}', hosts, shape.hosts)} after {timeout_s:.0f} s"
    return (
        f"slice {name} is whole, but its chips were not free within {timeout_s:.0f} s: another job holds them "
        "(see `ray list placement-groups`), or a host died and Ray has not noticed yet"
    )


async def _wait_for_hosts(name: str, shape: Slice, timeout_s: float) -> tuple[Host, ...]:
    deadline = time.monotonic() + timeout_s
    logged, metrics = 0.0, SliceMetrics(name, shape.hosts)
    while missing(hosts := (slices := await _slices(shape)).get(name, {}), shape.hosts):
        metrics.ready(len(hosts))
        problem = describe_missing(f"slice {name}", hosts, shape.hosts)
        if other := await asyncio.to_thread(_free_whole_slice, slices, shape):
            quarantine_slice(name, shape)
            raise OperationError(f"{problem}; slice {other} is whole, so the replica moves there")
        if time.monotonic() > deadline:
            raise OperationError(f"{problem} after {timeout_s:.0f} s: check why their pods or nodes do not start")
        if time.monotonic() - logged > _LOG_EVERY_S:
            logger.warning(f"{problem}: waiting up to {timeout_s:.0f} s")
            logged = time.monotonic()
        await asyncio.sleep(_POLL_S)
    return tuple(hosts.values())


async def _slices(shape: Slice) -> dict[str, dict[int, Host]]:
    return living_hosts(await asyncio.to_thread(ray.nodes), shape.pod_type)


def _free_whole_slice(slices: dict[str, dict[int, Host]], shape: Slice) -> str | None:
    groups: list[dict[str, Any]] = list(ray.util.placement_group_table().values())
    taken = {group["name"] for group in groups if group["state"] != "REMOVED"}
    whole = (name for name, hosts in sorted(slices.items()) if not missing(hosts, shape.hosts))
    return next((name for name in whole if _PREFIX + name not in taken), None)


def _own_slice(shape: Slice) -> str:
    node_id = ray.get_runtime_context().get_node_id()
    for name, hosts in living_hosts(ray.nodes(), shape.pod_type).items():
        if node_id in {host.node_id for host in hosts.values()}:
            return name
    raise OperationError(
        f"this replica is on a node that is not a host of a {shape.pod_type} slice: its ray_actor_options.resources must ask "
        f"for 1 {shape.head_resource}"
    )


class Quarantine:
    """Actor that lives until its slice is whole again, or `_QUARANTINE_MAX_S` have passed."""

    async def run(self, slice_name: str, shape: Slice) -> None:
        end = time.monotonic() + _QUARANTINE_MAX_S
        while time.monotonic() < end and missing((await _slices(shape)).get(slice_name, {}), shape.hosts):
            await asyncio.sleep(_QUARANTINE_POLL_S)
        ray.actor.exit_actor()


def quarantine_slice(slice_name: str, shape: Slice) -> None:
    """Keep a broken slice from being chosen again while a whole one is free, once the calling replica has exited.

    Ray places a replica by resources alone, so it would send it to the broken slice as readily as to the whole one. An actor
    that takes the broken slice's head resource in its stead prevents that; it exits by itself.
    """
    actor = (
        ray.remote(Quarantine)
        .options(
            name=f"quarantine:{slice_name}",
            namespace="slices",
            get_if_exists=True,
            lifetime="detached",  # it must outlive the replica
            num_cpus=0,
            resources={shape.head_resource: 1},
            label_selector={SLICE_NAME: slice_name},
        )
        .remote()
    )
    actor.run.remote(slice_name, shape)

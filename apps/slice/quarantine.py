"""Keep a broken slice from being chosen again while a whole one is free.

Ray places a replica by resources alone, so it would send it to the broken slice as readily as to the whole one. An actor that
takes the broken slice's head resource in its stead prevents that; it ends by itself.
"""

import asyncio
import time

import ray

from apps.slice.hosts import SLICE_NAME, living_hosts, missing
from apps.slice.topology import Slice

LONGEST_S = 600.0
_POLL_S = 2.0


class Quarantine:
    """Lives until its slice is whole again, or `LONGEST_S` have passed."""

    async def run(self, slice_name: str, pod_type: str, hosts: int) -> None:
        end = time.monotonic() + LONGEST_S
        while time.monotonic() < end:
            slices = living_hosts(await asyncio.to_thread(ray.nodes), pod_type)
            if not missing(slices.get(slice_name, {}), hosts):
                break
            await asyncio.sleep(_POLL_S)
        ray.actor.exit_actor()


def set_aside(slice_name: str, shape: Slice, head_resource: str) -> None:
    """Take the slice's head resource as soon as the calling replica, which holds it, ends."""
    actor = (
        ray.remote(Quarantine)
        .options(
            name=f"quarantine:{slice_name}",
            namespace="slices",
            get_if_exists=True,
            lifetime="detached",  # it must outlive the replica
            num_cpus=0,
            resources={head_resource: 1},
            label_selector={SLICE_NAME: slice_name},
        )
        .remote()
    )
    actor.run.remote(slice_name, shape.pod_type, shape.hosts)

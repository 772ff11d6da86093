"""What a TPU chip and libtpu answer, for JAX's CPU devices: a place in the slice, memory statistics, and copies on transfer."""

from collections import Counter
from typing import Any

import jax
import numpy as np

from apps.slice.topology import Slice
from benchmarks.compile.upstream import replace

_CHIPS_OF_A_HOST = 2, 2  # of v6e: two by two
_IDS_OF_A_PROCESS = 2**17  # of CPU devices (XLA, cpu_topology.h kMaxCpuDevicesPerProcess)


def describe(shape: Slice) -> None:
    """Give every CPU device coordinates and memory of a chip of this slice.

    The engine orders its mesh and its hosts by `coords` (utils.py:288, distributed/utils.py:85), and sizes the KV cache by
    `memory_stats()` (utils.py:112), which is None on CPU.
    """
    limit = shape.generation.usable_bytes
    jax.Device.coords = property(lambda chip: _coordinates(chip, shape))

    def memory_stats(chip: Any) -> dict[str, int]:
        if chip.process_index != jax.process_index():
            raise RuntimeError("another host's device has no memory statistics here")  # as on a TPU
        return {"bytes_in_use": _used()[chip], "bytes_limit": limit}

    jax.Device.memory_stats = memory_stats


def _coordinates(device: Any, shape: Slice) -> tuple[int, int, int]:
    """Place of a chip, host after host; also where one process has the chips of several hosts."""
    wide, high = _CHIPS_OF_A_HOST
    host, chip = divmod(device.process_index * shape.chips_per_host + device.id % _IDS_OF_A_PROCESS, wide * high)
    hosts_in_a_row = int(shape.topology.split("x")[0]) // wide
    row, column = divmod(host, hosts_in_a_row)
    return column * wide + chip % wide, row * high + chip // wide, 0


def _used() -> Counter[Any]:
    used: Counter[Any] = Counter()
    for array in jax.live_arrays():
        for shard in array.addressable_shards:
            used[shard.device] += shard.data.nbytes
    return used


def copy_on_transfer() -> None:
    """Copy NumPy arrays that go to a device (utils.py:20).

    A CPU device shares their memory, which the engine overwrites while a step is still running: answers would differ.
    """

    def put(tensor: Any, *arguments: Any, **options: Any) -> Any:
        own = jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, tensor)
        return original(own, *arguments, **options)

    original = replace("tpu_inference.utils", "general_device_put", put, "tensor sharding layout source_mesh")


def without_tpu_options() -> None:
    """Leave out the TPU compiler's options (model_loader.py:36), which XLA refuses for a CPU."""
    replace("tpu_inference.models.common.model_loader", "get_step_fn_compiler_options", lambda: {}, "")

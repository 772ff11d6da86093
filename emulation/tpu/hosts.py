"""One JAX over all emulated hosts of a slice. On a TPU libtpu finds its peers by itself; on CPU JAX must be told of them.

The hosts meet at the store of the executor's first worker (vLLM, ray_executor_v2.py `create_dist_init_method`), which gets the
address of JAX's own coordinator.
"""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jax
import numpy as np

from apps.slice.topology import Slice
from apps.weights.args import HOST, directory_on
from benchmarks.compile.upstream import replace
from emulation.hosts import processes
from emulation.hosts.preflight import free_ports

_WORKER = "tpu_inference.worker.tpu_worker:TPUWorker"
_NODE_ID = "--node_id="
_KEY = "jax-coordinator"
_MEET_S = 300
_HEARTBEAT_S = 20


def join(shape: Slice) -> None:
    """Start `jax.distributed` before a worker looks at its devices (tpu_worker.py:307), with collectives over loopback."""

    def init_device(self: Any, *arguments: Any, **options: Any) -> Any:
        if envs.TPU_MULTIHOST_BACKEND:
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
            coordinator = _coordinator(self.distributed_init_method, self.rank)
            jax.distributed.initialize(coordinator, shape.hosts, self.rank, heartbeat_timeout_seconds=_HEARTBEAT_S)
        return original(self, *arguments, **options)

    from tpu_inference import envs

    takes = "self tpu_process_bounds tpu_chips_per_process_bounds tpu_visible_chips"
    original = replace(_WORKER, "init_device", init_device, takes)
    # layers/common/utils.py:171: `jax.devices("cpu")[0]` is another host's
    replace("tpu_inference.layers.common.utils", "cpu_mesh", _own_cpu_mesh, "")


def connect_to_own_node() -> None:
    """Let the engine's core join Ray on its own host, as it does where that is a machine: here Ray would take the head."""
    replace("ray._private.services", "find_node_ids", _own_node_id, "")


def _own_node_id() -> set[str]:
    """The id of the raylet in this process's session, which is its host's (emulation/hosts/hosts.py)."""
    own = (process.cmdline() for process in processes.find([os.getsid(0)], Path("/")) if process.name() == "raylet")
    return {word.removeprefix(_NODE_ID) for words in own for word in words if word.startswith(_NODE_ID)}


def use_own_disk() -> None:
    """Let each host read weights and keep programs below its own name: emulated hosts share one disk (tpu_worker.py:146)."""
    import vllm.envs
    from tpu_inference import envs

    def init(self: Any, vllm_config: Any, *arguments: Any, **options: Any) -> None:
        first, own = (directory_on(f"{envs.TPU_NAME}/{number}", HOST) for number in (0, envs.TPU_WORKER_ID))
        model = vllm_config.model_config
        model.model = model.model.replace(f"/{first}/", f"/{own}/")
        vllm.envs.VLLM_XLA_CACHE_PATH = vllm.envs.VLLM_XLA_CACHE_PATH.replace(HOST, own)
        original(self, vllm_config, *arguments, **options)

    original = replace(_WORKER, "__init__", init)


def _own_cpu_mesh() -> Any:
    return jax.sharding.Mesh(np.array(jax.local_devices(backend="cpu")[:1]), ("cpu",))


def _coordinator(init_method: str, rank: int) -> str:
    """Address of JAX's coordinator; rank 0 chooses it and the others read it."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined] # it is in its __all__ only where it was built

    place = urlsplit(init_method)
    assert place.hostname
    assert place.port
    store = TCPStore(place.hostname, place.port, is_master=False, timeout=timedelta(seconds=_MEET_S))
    if rank == 0:
        (port,) = free_ports(1)
        store.set(_KEY, f"{place.hostname}:{port}")
    return bytes(store.get(_KEY)).decode()

"""Let vLLM TPU build its model runner over devices that are described and not there: arrays get shapes, and no numbers.

Reaches into tpu-inference (pinned: 0.29.0), which has no such mode; each replacement names what it stands in for. A name that
is gone upstream ends the program at once. Runs in the TPU engine's own environment.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.compile.upstream import replace

_MANAGER = "tpu_inference.runner.compilation_manager"
_ARRAYS = ("tpu_inference.utils", "tpu_inference.runner.tpu_runner", _MANAGER)
_LOADER = "tpu_inference.models.common.model_loader"
_KERNEL = "tpu_inference.kernels.ragged_paged_attention.v3"


def describe_devices(tpu_version: int, hbm_bytes: int, weight_bytes: Callable[[], int], record: Callable[..., None]) -> None:
    """Replace what would touch a device.

    Args:
        tpu_version: number of the generation, which the attention kernel asks the chip for.
        hbm_bytes: what the compiler lets a program take of a chip.
        weight_bytes: bytes of weights on a chip, once the model is loaded.
        record: is called in place of each compilation of a start, with the arguments of `CompilationManager._run_compilation`.
    """
    for module in _ARRAYS:  # utils.py `device_array`: jax.device_put of a start's made-up inputs
        replace(module, "device_array", _device_array)
    for module in (f"{_KERNEL}.kernel", f"{_KERNEL}.util"):  # util.py:52, reads jax.devices()[0].device_kind
        replace(module, "get_tpu_version", lambda: tpu_version)
    # kv_cache.py:105, a jitted jnp.empty
    replace("tpu_inference.runner.kv_cache", "_get_kv_cache_allocator", lambda *of: lambda: _shape(*of))
    # weight_utils.py:1147, random numbers for each parameter
    replace("tpu_inference.models.jax.utils.weight_utils:JaxDummyModelLoader", "load_weights", _load_weights)
    # model_loader.py:154, jits that only put the loaded parameters where their shardings say
    build: Any = replace(_LOADER, "_get_nnx_model", lambda *of, **options: _without_nnx_jit(build, *of, **options))
    replace("tpu_inference.utils", "hbm_usage_bytes", lambda devices: [(weight_bytes(), hbm_bytes)] * len(devices))
    manager = f"{_MANAGER}:CompilationManager"
    replace(manager, "_create_dummy_tensor", _dummy_tensor)  # compilation_manager.py:99
    replace(manager, "_flush_compilations", lambda self: self._warmup_tasks.clear())  # :199, runs the programs
    replace(manager, "_run_compilation", lambda _, *arguments, **options: record(*arguments, **options))  # :127
    put = jax.device_put

    def device_put(value: Any, device: Any = None, **options: Any) -> Any:
        return _abstract(value, device) if _is_described(device) else put(value, device, **options)

    jax.device_put = device_put


def shard_bytes(array: Any) -> int:
    """Bytes of a described array on one chip."""
    return int(np.prod(array.sharding.shard_shape(array.shape))) * array.dtype.itemsize


def _is_described(device: Any) -> bool:
    return isinstance(device, NamedSharding) and device.mesh.devices.flat[0].platform == "tpu"


def _shape(shape: Any, dtype: Any, sharding: Any) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _abstract(value: Any, sharding: Any) -> Any:
    return jax.tree.map(lambda leaf: _shape(np.shape(leaf), leaf.dtype, sharding), value)


def _device_array(mesh: Any, *arrays: Any, sharding: Any = None, **_: Any) -> Any:
    placed = tuple(_abstract(array, sharding or NamedSharding(mesh, PartitionSpec(None))) for array in arrays)
    return placed[0] if len(placed) == 1 else placed


def _dummy_tensor(self: Any, shape: Any, dtype: Any, sharding: Any = None) -> Any:
    from tpu_inference.utils import to_jax_dtype

    return _shape(shape, to_jax_dtype(dtype), sharding or NamedSharding(self.runner.mesh, PartitionSpec(None)))


def _load_weights(self: Any, model: Any, model_config: Any) -> None:  # noqa: ARG001 - upstream's signature
    mesh = jax.sharding.get_mesh()
    for _, parameter in model.named_parameters():
        metadata, value = parameter.get_metadata(), parameter.get_value()
        spec = metadata.get("out_sharding", ())
        spec = spec.spec if isinstance(spec, NamedSharding) else spec or ()
        sharding = NamedSharding(metadata.get("mesh") or mesh, PartitionSpec(*spec))
        parameter.set_value(_shape(value.shape, value.dtype, sharding))
    self._process_weights_after_loading(model)


def _without_nnx_jit(build: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What `build` returns with `nnx.jit` doing nothing while it runs."""
    jit, nnx.jit = nnx.jit, lambda *function, **_: function[0] if function else lambda wrapped: wrapped
    try:
        return build(*arguments, **options)
    finally:
        nnx.jit = jit

"""Let JAX 0.11.0's interpreter of TPU kernels run upstream's, which reshapes and bitcasts references: it knows neither.

Replaces three private callbacks of `jax._src.pallas.mosaic.interpret`; each finds the elements that a reference means by taking
its transformations on their numbers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax._src.pallas.mosaic.interpret import interpret_pallas_call as interpreter
from jax._src.pallas.mosaic.interpret.utils import to_range
from jax._src.state import types
from jax._src.state.indexing import NDIndexer
from jax.experimental.pallas import tpu as pltpu

_get, _store, _swap = (getattr(interpreter, name).__wrapped__ for name in ("get", "store", "swap"))


def _elements(array: Any, transforms: Any) -> tuple[Any, np.dtype[Any]]:
    """Numbers of the elements that each value is made of (last axis), and the values' type."""
    numbers, dtype = np.arange(array.size).reshape(*array.shape, 1), array.dtype
    for transform in transforms:
        if isinstance(transform, types.ReshapeTransform):
            numbers = numbers.reshape(*transform.shape, numbers.shape[-1])
        elif isinstance(transform, types.BitcastTransform):  # rows that lie side by side in a tile become one
            wide = np.dtype(transform.dtype)
            rows = wide.itemsize // dtype.itemsize
            *outer, height, width, of_each = numbers.shape
            numbers = np.moveaxis(numbers.reshape(*outer, height // rows, rows, width, of_each), -3, -2)
            numbers, dtype = numbers.reshape(*outer, height // rows, width, rows * of_each), wide
        else:
            numbers = numbers[to_range([transform])]
    return numbers, dtype


def _is_plain(transforms: Any) -> bool:
    return all(isinstance(transform, NDIndexer) for transform in transforms)


def get(token: Any, *place: Any, **options: Any) -> Any:
    *buffer, transforms = place[:5]
    transforms = jax.tree.map(int, transforms)
    if _is_plain(transforms):
        return _get(token, *place, **options)
    _, whole = _get(token, *buffer, (), *place[5:], **options)
    numbers, dtype = _elements(whole, transforms)
    return token, np.ascontiguousarray(whole.reshape(-1)[numbers]).view(dtype)[..., 0]


def store(token: Any, *place: Any, **options: Any) -> Any:
    *buffer, transforms, value = place[:6]
    transforms = jax.tree.map(int, transforms)
    if _is_plain(transforms):
        return _store(token, *place, **options)
    whole = np.array(_get(None, *buffer, ())[1])
    numbers, _ = _elements(whole, transforms)
    whole.reshape(-1)[numbers] = np.ascontiguousarray(value)[..., None].view(whole.dtype)
    return _store(token, *buffer, (), whole, *place[6:], **options)


def swap(token: Any, *place: Any, **options: Any) -> Any:
    *where, value, mask = place[:7]
    if _is_plain(where[-1]):
        return _swap(token, *place, **options)
    assert mask is None
    before = get(token, *where)[1]
    return store(token, *where, value), before


@contextmanager
def interpreted() -> Iterator[None]:
    """Run TPU kernels in the interpreter inside the block."""
    originals = {name: getattr(interpreter, name) for name in ("get", "store", "swap")}
    for name, by in (("get", get), ("store", store), ("swap", swap)):
        failing = interpreter.fail_on_exception(by)
        failing.__wrapped__ = by
        setattr(interpreter, name, failing)
    try:
        with pltpu.force_tpu_interpret_mode():
            yield
    finally:
        for name, original in originals.items():
            setattr(interpreter, name, original)

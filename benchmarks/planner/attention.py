"""Attention over a KV cache in the form in which tpu-inference 0.29 keeps it, for the program that is compiled.

The cache has the sizes and the sharding of get_kv_cache_shape in its ragged_paged_attention kernel, with one page for each
sequence; the arithmetic is plain and blocked instead of that kernel.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from apps.slice.memory import DTYPE_BYTES, KvLayout, stored_heads_per_chip
from benchmarks.planner.case import Case

_KEYS, _QUERIES = 512, 128  # tokens of a block: what is at work at once stays in the chip's fast memory


class Attention:
    """Attention of one kind of layer and its cache: (layers, sequences, tokens, rows, head_dim).

    The rows of a chip are its keys' heads, then its values' heads, then what is left of the last 32-bit word.
    """

    def __init__(self, case: Case, *, wide: bool) -> None:
        shape, layout = case.layout.shape, case.layout
        self.heads = shape.global_kv_heads if wide else shape.sliding_kv_heads
        self.head_dim = shape.global_head_dim if wide else shape.sliding_head_dim
        self.queries = shape.query_heads
        self.has_values = not (wide and shape.global_k_equals_v)
        self.window = None if wide else shape.window
        is_full = wide or layout.kv_layout is KvLayout.VLLM_TPU
        self.tokens = case.context if is_full else min(case.context, shape.window)
        self.is_ring = self.tokens < case.context
        self.chips = layout.tensor_parallel
        self.stored = max(self.heads, self.chips)
        self.rows = int(2 * stored_heads_per_chip(layout, self.heads))
        self.is_narrow = DTYPE_BYTES[layout.kv_dtype] == 1

    def cache(self, sequences: int) -> tuple[tuple[int, ...], Any]:
        """Shape and type of one layer's cache. Narrow ones travel as uint8: XLA widens an array of float8 that it writes to."""
        shape = (sequences, self.tokens, self.chips * self.rows, self.head_dim)
        return shape, jnp.uint8 if self.is_narrow else jnp.bfloat16

    def pack(self, keys: jax.Array, values: jax.Array) -> jax.Array:
        """(batch, tokens, heads, head_dim) twice -> (batch, tokens, rows, head_dim), heads repeated as they are stored."""
        batch, tokens = keys.shape[:2]
        parted = [
            jnp.repeat(heads, self.stored // self.heads, 2).reshape(batch, tokens, self.chips, -1, self.head_dim)
            for heads in (keys, values)
        ]
        unused = self.rows - 2 * parted[0].shape[3]
        both = jnp.pad(jnp.concatenate(parted, 3), ((0, 0), (0, 0), (0, 0), (0, unused), (0, 0)))
        both = both.reshape(batch, tokens, self.chips * self.rows, self.head_dim)
        return jax.lax.bitcast_convert_type(both.astype(jnp.float8_e5m2), jnp.uint8) if self.is_narrow else both

    def unpack(self, block: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The reverse of `pack`, in bfloat16: (batch, tokens, heads as stored, head_dim) twice."""
        if self.is_narrow:
            block = jax.lax.bitcast_convert_type(block, jnp.float8_e5m2)
        batch, tokens = block.shape[:2]
        both = block.reshape(batch, tokens, self.chips, self.rows, self.head_dim).astype(jnp.bfloat16)
        own = self.stored // self.chips
        whole = (batch, tokens, self.stored, self.head_dim)
        return _by_heads(both[:, :, :, :own].reshape(whole)), _by_heads(both[:, :, :, own : 2 * own].reshape(whole))

    def write(self, cache: jax.Array, layer: jax.Array, new: jax.Array, positions: jax.Array) -> jax.Array:
        """Write new tokens into a layer's cache, in place: one token of each sequence, or a piece of a prompt.

        One sequence after the other: XLA may copy the whole cache to scatter into all of them at once.
        """

        def write_row(row: jax.Array, cache: jax.Array) -> jax.Array:
            mine = jax.lax.dynamic_slice_in_dim(new, row, 1, 0)
            return jax.lax.dynamic_update_slice(cache, mine[None], (layer, row, positions[row, 0] % self.tokens, 0, 0))

        return jax.lax.fori_loop(0, new.shape[0], write_row, cache)

    def attend(self, query: jax.Array, cache: jax.Array, layer: jax.Array, positions: jax.Array) -> jax.Array:
        """(batch, tokens, query heads, head_dim) -> (batch, tokens, outputs), over the keys up to each token's position."""
        batch, tokens = positions.shape
        query = _by_heads(query.reshape(batch, tokens, self.stored, -1, self.head_dim))
        size = min(tokens, _QUERIES)

        def block(start: jax.Array) -> jax.Array:
            some = jax.lax.dynamic_slice_in_dim(query, start, size, 1)
            return self._over_keys(some, cache, layer, jax.lax.dynamic_slice_in_dim(positions, start, size, 1))

        outputs = jax.lax.map(block, jnp.arange(0, tokens, size))
        return jnp.moveaxis(outputs, 0, 1).reshape(batch, tokens, self.queries * self.head_dim)

    def _over_keys(self, query: jax.Array, cache: jax.Array, layer: jax.Array, positions: jax.Array) -> jax.Array:
        """Softmax over blocks of keys, with the running maximum and sum of online softmax."""
        batch, tokens, heads, group, _ = query.shape
        size = min(self.tokens, _KEYS)

        def over(carry: Any, start: jax.Array) -> tuple[Any, None]:
            highest, total, mixed = carry
            block = jax.lax.dynamic_slice(cache, (layer, 0, start, 0, 0), (1, batch, size, *cache.shape[3:]))[0]
            keys, values = self.unpack(block)
            scores = jnp.einsum("bthgd,bshd->bthgs", query, keys, preferred_element_type=jnp.float32)
            scores = jnp.where(self._seen(start + jnp.arange(size), positions)[:, :, None, None], scores, -1e30)
            higher = jnp.maximum(highest, scores.max(-1))
            weight, fade = jnp.exp(scores - higher[..., None]), jnp.exp(highest - higher)
            more = jnp.einsum("bthgs,bshd->bthgd", weight.astype(jnp.bfloat16), values, preferred_element_type=jnp.float32)
            return (higher, total * fade + weight.sum(-1), mixed * fade[..., None] + more), None

        zero = jnp.zeros((batch, tokens, heads, group), jnp.float32)
        empty = (zero - 1e30, zero, jnp.zeros(query.shape, jnp.float32))
        (_, total, mixed), _ = jax.lax.scan(over, empty, jnp.arange(0, self.tokens, size))
        return (mixed / total[..., None]).astype(jnp.bfloat16)

    def _seen(self, keys: jax.Array, positions: jax.Array) -> jax.Array:
        """(batch, tokens, keys): which keys a token attends to."""
        at = positions[..., None]
        if self.is_ring:
            return (keys <= at % self.tokens) | (at >= self.tokens)
        seen = keys <= at
        return seen if self.window is None else seen & (keys > at - self.window)


def _by_heads(array: jax.Array) -> jax.Array:
    """Heads over the chips as the cache is: without this constraint the compiler may gather it instead."""
    return jax.lax.with_sharding_constraint(array, PartitionSpec(None, None, "model"))

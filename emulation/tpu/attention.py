"""Attention of tpu-inference's two Pallas kernels in plain JAX: the same arguments and results, on any device.

Pages of the KV cache have the kernels' own layout (`merge_kv`). Products are summed in float32, as on a TPU.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.compile.upstream import replace

_INTERFACE = "tpu_inference.layers.common.attention_interface"
_MASKED = -1e30  # not -inf: (-inf) - (-inf) is nan


def replace_kernels() -> None:
    """Let the engine call these functions (attention_interface.py:52 and :33)."""
    replace(_INTERFACE, "ragged_paged_attention", ragged_paged_attention)
    replace(_INTERFACE, "flash_attention", flash_attention)


def ragged_paged_attention(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    kv_cache: jax.Array,
    kv_lens: jax.Array,
    page_indices: jax.Array,
    cu_q_lens: jax.Array,
    distribution: jax.Array,
    *,
    use_causal_mask: bool = True,
    update_kv_cache: bool = True,
    sm_scale: float = 1.0,
    sliding_window: int | None = None,
    soft_cap: float | None = None,
    q_scale: float | None = None,
    k_scale: float | None = None,
    v_scale: float | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Attend each sequence's new tokens to its pages, into which their keys and values were written first.

    Source: kernels/ragged_paged_attention/v3/kernel.py. Shapes: queries (tokens, heads, head), keys and values
    (tokens, KV heads, head), kv_cache (pages, page, 2 KV heads / packing, packing, head padded to 128), kv_lens (sequences,),
    page_indices (sequences * pages of each,), cu_q_lens (sequences + 1,), distribution (3,), of which the last is the
    number of sequences. Returns the output, zero for tokens of no sequence, and the cache.
    """
    tokens, heads, head = queries.shape
    kv_heads, page = keys.shape[1], kv_cache.shape[1]
    sequences = kv_lens.shape[0]
    pages = page_indices.reshape(sequences, -1)
    if update_kv_cache:
        kv_cache = _written(kv_cache, keys, values, kv_lens, pages, cu_q_lens, distribution[2])
    if q_scale is not None:
        queries = _quantized(queries / q_scale, kv_cache.dtype)
    grouped = queries.reshape(tokens, kv_heads, heads // kv_heads, head).astype(jnp.float32)
    scale = sm_scale * (k_scale or 1.0) * (q_scale or 1.0)
    token = jnp.arange(tokens)

    def attend(sequence: jax.Array, result: jax.Array) -> jax.Array:
        start, end, length = cu_q_lens[sequence], cu_q_lens[sequence + 1], kv_lens[sequence]
        position = (length - (end - token))[:, None]
        oldest = 0 if sliding_window is None else jnp.maximum(length - (end - start) - sliding_window + 1, 0)

        def add_page(number: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            merged = kv_cache[pages[sequence, number]].reshape(page, -1, kv_cache.shape[-1])[:, : 2 * kv_heads, :head]
            k, v = merged.astype(jnp.float32).reshape(page, kv_heads, 2, head).transpose(2, 0, 1, 3)
            scores = jnp.einsum("tkgh,pkh->tkgp", grouped, k) * scale
            if soft_cap is not None:
                scores = soft_cap * jnp.tanh(scores / soft_cap)
            slot = (number * page + jnp.arange(page))[None]
            seen = jnp.broadcast_to(slot < length, (tokens, page))
            if use_causal_mask:
                seen &= slot <= position
            if sliding_window is not None:
                seen &= slot > position - sliding_window
            v = jnp.where((slot[0] < length)[:, None, None], v, 0)  # what an unwritten slot holds may be nan
            return _add(sums, scores, seen[:, None, None, :], v)

        shape = grouped.shape
        nothing = (jnp.full(shape[:-1], _MASKED), jnp.zeros(shape[:-1]), jnp.zeros(shape))
        _, total, sums = lax.fori_loop(oldest // page, -(-length // page), add_page, nothing)
        mine = ((token >= start) & (token < end))[:, None, None, None]
        return jnp.where(mine, sums / jnp.maximum(total, 1e-30)[..., None], result)

    result = lax.fori_loop(0, distribution[2], attend, jnp.zeros(grouped.shape, jnp.float32))
    result = result.reshape(tokens, heads, head) * (1.0 if v_scale is None else v_scale)
    return result.astype(jnp.float32 if queries.dtype == jnp.float32 else jnp.bfloat16), kv_cache


def _written(cache: Any, keys: Any, values: Any, kv_lens: Any, pages: Any, cu_q_lens: Any, count: Any) -> Any:
    """The cache with each new token's key and value at its position."""
    from tpu_inference.kernels.ragged_paged_attention.v3.kernel import merge_kv

    token, sequences, page = jnp.arange(keys.shape[0]), kv_lens.shape[0], cache.shape[1]
    # what is behind the last sequence is not sorted
    ends = jnp.where(jnp.arange(sequences) < count, cu_q_lens[1:], keys.shape[0])
    sequence = jnp.clip(jnp.searchsorted(ends, token, side="right"), 0, sequences - 1)
    position = jnp.maximum(kv_lens[sequence] - (cu_q_lens[sequence + 1] - token), 0)
    target = jnp.where(token < cu_q_lens[count], pages[sequence, position // page], cache.shape[0])
    return cache.at[target, position % page].set(merge_kv(keys, values), mode="drop")


def _quantized(queries: jax.Array, dtype: Any) -> jax.Array:
    if jnp.issubdtype(dtype, jnp.floating):
        limits = jnp.finfo(dtype)
        queries = jnp.clip(queries, float(limits.min), float(limits.max))
    return queries.astype(dtype)


def _add(sums: tuple[jax.Array, ...], scores: jax.Array, seen: jax.Array, values: jax.Array) -> tuple[jax.Array, ...]:
    """One more block of a softmax that is computed block by block: its maximum, its total and the weighted values."""
    highest, total, weighted = sums
    higher = jnp.maximum(highest, jnp.max(jnp.where(seen, scores, _MASKED), axis=-1))
    weights = jnp.where(seen, jnp.exp(scores - higher[..., None]), 0)
    before = jnp.exp(highest - higher)
    added = jnp.einsum("tkgp,pkh->tkgh", weights, values)
    return higher, before * total + weights.sum(-1), before[..., None] * weighted + added


def flash_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    segment_ids: Any = None,
    sm_scale: float | None = None,
    causal: bool = True,
    vmem_limit_bytes: int | None = None,  # noqa: ARG001 - of the kernel
) -> jax.Array:
    """Attend (batch, heads, tokens, head) within segments: the vision tower's. Source: kernels/flash_attention/kernel.py."""
    scores = jnp.einsum("bnqh,bnkh->bnqk", q.astype(jnp.float32), k.astype(jnp.float32)) * (sm_scale or 1.0)
    seen = jnp.ones(scores.shape[-2:], bool)
    if causal:
        seen = jnp.tril(seen)
    if segment_ids is not None:
        seen = seen & (segment_ids.q[:, None, :, None] == segment_ids.kv[:, None, None, :])
    weights = jax.nn.softmax(jnp.where(seen, scores, _MASKED), axis=-1)
    return jnp.einsum("bnqk,bnkh->bnqh", weights, v.astype(jnp.float32)).astype(q.dtype)

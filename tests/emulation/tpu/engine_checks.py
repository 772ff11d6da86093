"""Run by test_parts in the TPU engine's Python: the stand-ins against what they replace."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tpu_inference.kernels.flash_attention.kernel import SegmentIds, mha_reference
from tpu_inference.kernels.flash_attention.kernel import flash_attention as flash_kernel
from tpu_inference.kernels.ragged_paged_attention.v3.kernel import (
    get_kv_cache_shape,
    ref_ragged_paged_attention,
)
from tpu_inference.kernels.ragged_paged_attention.v3.kernel import ragged_paged_attention as ragged_kernel

from emulation.tpu import plugin
from emulation.tpu.attention import flash_attention, ragged_paged_attention
from tests.emulation.tpu.interpreter import interpreted

PAGE, PAGES_EACH, PAGES, SEQUENCES, TOKENS = 16, 8, 40, 4, 32
F32, BF16, FP8 = jnp.float32, jnp.bfloat16, jnp.float8_e4m3fn


def case(kv_lens: list[int], new: list[int], heads: tuple[int, int], head: int, dtype: Any, cached: Any = None) -> list[Any]:
    """Arguments of the kernel: sequences of these lengths, of which so many tokens are new; (heads, KV heads)."""
    draw = np.random.default_rng(0)
    cached, more = cached or dtype, SEQUENCES - len(new)

    def normal(*shape: int, of: Any = dtype) -> Any:
        return jnp.asarray(draw.standard_normal(shape), F32).astype(of)

    queries = normal(TOKENS, heads[0], head)
    keys, values = (normal(TOKENS, heads[1], head, of=cached) for _ in "kv")
    cache = normal(*get_kv_cache_shape(PAGES, PAGE, heads[1], head, cached), of=cached)
    pages = draw.permutation(PAGES)[: SEQUENCES * PAGES_EACH]
    starts = np.cumsum([0, *new, *[0] * more])
    numbers = ([*kv_lens, *[0] * more], pages, starts, [0, 0, len(new)])
    return [queries, keys, values, cache, *(jnp.asarray(value, jnp.int32) for value in numbers)]


@pytest.mark.parametrize(
    ("arguments", "options", "tolerance"),
    [
        (case([20, 33], [5, 7], (4, 1), 128, F32), {}, 1e-5),
        (case([20, 60, 1], [1, 7, 1], (2, 1), 256, F32), {"sliding_window": 16, "soft_cap": 30.0}, 1e-5),
        (case([20, 33], [5, 7], (4, 2), 80, F32), {}, 1e-5),  # a head that is padded to 128
        (case([20, 60, 1], [1, 7, 1], (4, 2), 128, BF16), {"sliding_window": 16}, 0.03),
        # the reference rounds its weights to the cache's 8 bits
        (case([20, 33], [5, 7], (4, 2), 128, BF16, FP8), {"k_scale": 0.5, "v_scale": 2.0}, 0.3),
        (case([20, 33], [5, 7], (4, 2), 128, BF16, FP8), {"q_scale": 0.5, "k_scale": 0.5, "v_scale": 2.0}, 0.3),
        (case([20, 33], [5, 7], (4, 1), 128, F32), {"use_causal_mask": False}, 1e-5),
    ],
)
def test_attention_is_upstreams_reference(arguments: list[Any], options: dict[str, Any], tolerance: float) -> None:
    ours, our_cache = jax.jit(lambda *given: ragged_paged_attention(*given, sm_scale=0.1, **options))(*arguments)
    theirs, their_cache = ref_ragged_paged_attention(*arguments, sm_scale=0.1, **options)
    count = theirs.shape[0]
    assert ours.shape == arguments[0].shape
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours[:count].astype(F32), theirs.astype(F32), atol=tolerance, rtol=0)
    assert not ours[count:].any()
    np.testing.assert_array_equal(our_cache.astype(F32), their_cache.astype(F32))


@pytest.mark.parametrize(
    ("arguments", "decode", "options", "tolerance"),
    [
        (case([20, 60, 1], [1, 7, 1], (2, 1), 256, BF16), 0, {"sliding_window": 16, "soft_cap": 30.0}, 0.03),
        (case([40, 33], [1, 1], (4, 2), 128, F32), 2, {"sliding_window": 16}, 1e-5),
    ],
)
def test_attention_is_the_interpreted_kernels(
    arguments: list[Any], decode: int, options: dict[str, Any], tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("kernel", "util"):
        monkeypatch.setattr(f"tpu_inference.kernels.ragged_paged_attention.v3.{module}.get_tpu_version", lambda: 6)
    arguments[-1] = arguments[-1].at[:2].set(decode)
    count = int(arguments[-2][arguments[-1][2]])
    ours, our_cache = ragged_paged_attention(*arguments, sm_scale=0.1, **options)
    blocks = {f"{kind}_block_sizes": (new, 32, new, 32) for kind, new in (("d", 1), ("p", 8), ("m", 8))}
    with interpreted():
        theirs, their_cache = ragged_kernel(
            *(jnp.copy(argument) for argument in arguments), sm_scale=0.1, vmem_limit_bytes=2**26, **blocks, **options
        )
    np.testing.assert_allclose(ours[:count].astype(F32), theirs[:count].astype(F32), atol=tolerance, rtol=0)
    np.testing.assert_array_equal(our_cache.astype(F32), their_cache.astype(F32))


def test_shared_cache_is_read_and_not_written() -> None:
    arguments = case([20, 33], [5, 7], (4, 1), 128, F32)
    once, cache = ragged_paged_attention(*arguments)
    arguments[1:4] = [jnp.zeros_like(arguments[1]), jnp.zeros_like(arguments[2]), cache]
    again, kept = ragged_paged_attention(*arguments, update_kv_cache=False)
    np.testing.assert_allclose(again, once, atol=1e-6)
    np.testing.assert_array_equal(kept, cache)


def test_the_vision_towers_attention_is_upstreams_reference() -> None:
    segments = SegmentIds(*[jnp.asarray([[1] * 100 + [2] * 28])] * 2)
    draw = np.random.default_rng(0)
    q, k, v = (jnp.asarray(draw.standard_normal((1, 2, 128, 64)), F32) for _ in "qkv")
    ours = flash_attention(q, k, v, segment_ids=segments, sm_scale=0.2, causal=False)
    theirs = mha_reference(q, k, v, None, segments, sm_scale=0.2, causal=False)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(("ours", "kernel"), [(ragged_paged_attention, ragged_kernel), (flash_attention, flash_kernel)])
def test_no_argument_is_one_that_the_kernel_does_not_have(ours: Any, kernel: Any) -> None:
    assert inspect.signature(ours).parameters.keys() <= inspect.signature(kernel).parameters.keys()


def test_every_part_that_is_replaced_is_there() -> None:
    plugin.register()
    assert {device.coords for device in jax.devices()} == {(0, 0, 0)}
    assert jax.devices()[0].memory_stats()["bytes_limit"] > 31 * 2**30

"""A step of a Gemma-shaped model as the TPU compiler sees it: every array with its shape, type and sharding, no numbers.

Weights are cut as tpu-inference 0.29 cuts them (models/jax/gemma4.py); int8 weights are multiplied as int8, with one scale per
token and per output. Nothing here was ever executed: it is compiled, for its memory and its collectives.

`python -m benchmarks.planner.program` reads a case as JSON from each line of standard input and writes its `Result` as JSON on
a line of standard output. It runs in the compile environment only: jax and libtpu must never be where vLLM runs.
"""

import functools
import json
import re
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from apps.slice.models import Stage
from benchmarks.planner.attention import Attention
from benchmarks.planner.case import Case, Result, case_from_json
from benchmarks.planner.hlo import collectives

Arrays = dict[str, Any]
# "Ran out of memory on HBM, the total memory required for HLO temporaries (46.90G) exceeds available HBM (31.24G)."
# In spite of its words the figure includes the arguments.
_REFUSED = re.compile(r"total memory required for HLO temporaries \(([\d.]+)([MGT])\)")
_UNITS = {"M": 2**20, "G": 2**30, "T": 2**40}


def compile_case(case: Case) -> Result:
    """The compiler's answer.

    Raises:
        jax.errors.JaxRuntimeError: it refused the program for another reason than memory.
    """
    step, described = build(case)
    start = time.monotonic()
    versions = {name: version(name) for name in ("jax", "libtpu")}
    try:
        compiled = step.lower(*described).compile()
    except jax.errors.JaxRuntimeError as error:
        refused = _REFUSED.search(str(error))
        if refused is None:
            raise
        needed = int(float(refused[1]) * _UNITS[refused[2]])
        return Result(False, needed, None, None, None, time.monotonic() - start, versions)
    return _accepted(compiled, time.monotonic() - start, versions)


def _accepted(compiled: Any, seconds: float, versions: dict[str, str]) -> Result:
    memory = compiled.memory_analysis()
    held, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    total = held + temporary + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Result(True, total, held, temporary, collectives(compiled.as_text()), seconds, versions)


def build(case: Case) -> tuple[Any, tuple[Any, ...]]:
    """The step, ready to be lowered (its caches are written in place), and the described arguments it takes."""
    mesh = _mesh(case)
    stage = case.fullest_stage
    described = arguments(case, stage, mesh)
    step = jax.shard_map(
        functools.partial(_step, case, stage),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(None, "data"), PartitionSpec("data"), PartitionSpec("data")),
        out_specs=(PartitionSpec("data"), PartitionSpec(None, "data")),
        axis_names={"data"},  # groups share nothing; within one the compiler shards and communicates by itself
        check_vma=False,
    )
    # The caches lie in memory as the compiler likes best: the kernel of tpu-inference, too, needs no copies of them.
    free = jax.tree.map(lambda cache: Format(Layout.AUTO, cache.sharding), described[1])
    jitted = jax.jit(step, donate_argnums=1, in_shardings=(None, free, None, None), out_shardings=(None, free))
    return jitted, described


def _mesh(case: Case) -> Mesh:
    described = topologies.get_topology_desc(platform="tpu", topology_name=f"{case.accelerator}:{case.stage_topology}")
    return Mesh(np.array(described.devices).reshape(case.layout.data_parallel, case.layout.tensor_parallel), ("data", "model"))


def weights(case: Case, attention: Attention) -> dict[str, tuple[tuple[int, ...], PartitionSpec]]:
    """Shape and sharding of one layer's matrices: inputs by outputs, cut over the chips of a group."""
    hidden, ffn = case.layout.shape.hidden, case.layout.shape.ffn
    out, into = PartitionSpec(None, "model"), PartitionSpec("model", None)
    attended, kept = attention.queries * attention.head_dim, attention.heads * attention.head_dim
    matrices = {"q": ((hidden, attended), out), "k": ((hidden, kept), out), "o": ((attended, hidden), into)}
    if attention.has_values:
        matrices["v"] = ((hidden, kept), out)
    return matrices | {"gate_up": ((hidden, 2 * ffn), out), "down": ((ffn, hidden), into)}


def arguments(case: Case, stage: Stage, mesh: Mesh) -> tuple[Any, ...]:
    """What the step takes, described: weights, caches, tokens (or what the stage before made of them), positions."""

    def array(shape: tuple[int, ...], kind: Any, *spec: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, kind, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

    shape, sequences = case.layout.shape, case.per_group * case.layout.data_parallel
    kind = jnp.int8 if case.layout.dtype == "int8" else jnp.bfloat16
    held: Arrays = {"norm": array((shape.hidden,), jnp.bfloat16)}
    caches: Arrays = {}
    for name, count in (("sliding", stage.sliding), ("wide", stage.wide)):
        attention = Attention(case, wide=name == "wide")
        layer = {n: array((count, *s), kind, None, *p) for n, (s, p) in weights(case, attention).items()}
        if kind == jnp.int8:
            scales = {n: array((count, s[1]), jnp.bfloat16, None, p[1]) for n, (s, p) in weights(case, attention).items()}
            layer |= {f"{n}_scale": scale for n, scale in scales.items()}
        layer |= {n: array((count, shape.hidden), jnp.bfloat16) for n in ("before", "after", "ffn_before", "ffn_after")}
        layer |= {n: array((count, attention.head_dim), jnp.bfloat16) for n in ("q_norm", "k_norm")}
        held[name] = layer
        size, cached = attention.cache(sequences)
        caches[name] = array((count, *size), cached, None, "data", None, "model")
    if stage.embeds:
        held["embedding"] = array((shape.vocab, shape.hidden), jnp.bfloat16, "model", None)
    rows, tokens = (case.layout.data_parallel, case.prompt_tokens) if case.prompt_tokens else (sequences, 1)
    into = (
        array((rows, tokens), jnp.int32, "data") if stage.first else array((rows, tokens, shape.hidden), jnp.bfloat16, "data")
    )
    return held, caches, into, array((rows, tokens), jnp.int32, "data")


def _step(case: Case, stage: Stage, held: Arrays, caches: Arrays, tokens: jax.Array, positions: jax.Array) -> Any:
    """One step of a stage for one data-parallel group: layers in the model's order, each reading and writing its cache."""
    shape = case.layout.shape
    stream = held["embedding"][tokens] * jnp.bfloat16(shape.hidden**0.5) if stage.first else tokens
    stream = _whole(stream)
    sliding = functools.partial(_layer, case, Attention(case, wide=False), held["sliding"], positions)
    wide = functools.partial(_layer, case, Attention(case, wide=True), held["wide"], positions)
    between = shape.sliding_layers // shape.global_layers
    groups = min(stage.wide, stage.sliding // between)

    def group(carry: Any, number: jax.Array) -> tuple[Any, None]:
        stream, narrow, broad = carry
        (stream, narrow), _ = jax.lax.scan(sliding, (stream, narrow), number * between + jnp.arange(between))
        (stream, broad), _ = wide((stream, broad), number)
        return (stream, narrow, broad), None

    (stream, narrow, broad), _ = jax.lax.scan(group, (stream, caches["sliding"], caches["wide"]), jnp.arange(groups))
    if left := stage.sliding - groups * between:
        (stream, narrow), _ = jax.lax.scan(sliding, (stream, narrow), groups * between + jnp.arange(left))
    if left := stage.wide - groups:
        (stream, broad), _ = jax.lax.scan(wide, (stream, broad), groups + jnp.arange(left))
    return _output(stage, held, stream), {"sliding": narrow, "wide": broad}


def _output(stage: Stage, held: Arrays, stream: jax.Array) -> jax.Array:
    """The next token of each sequence from its last position, or what the next stage continues with."""
    if not stage.last:
        return stream
    last = _normed(stream[:, -1], held["norm"])
    logits = jnp.einsum("bd,vd->bv", last, held["embedding"], preferred_element_type=jnp.float32)
    return jnp.argmax(30 * jnp.tanh(logits / 30), -1)


def _layer(case: Case, attention: Attention, held: Arrays, positions: jax.Array, carry: Any, number: jax.Array) -> Any:
    stream, cache = carry
    layer = {name: array[number] for name, array in held.items()}
    normed = _normed(stream, layer["before"])
    query = _rotated(_normed(_heads(_times(normed, layer, "q"), attention), layer["q_norm"]), positions)
    raw = _heads(_times(normed, layer, "k"), attention)
    values = _heads(_times(normed, layer, "v"), attention) if attention.has_values else raw
    keys = _rotated(_normed(raw, layer["k_norm"]), positions)
    cache = attention.write(cache, number, attention.pack(keys, values), positions)
    attended = attention.attend(query, cache, number, positions)
    stream = stream + _normed(_whole(_times(attended, layer, "o")), layer["after"])
    normed = _normed(stream, layer["ffn_before"])
    both = _times(normed, layer, "gate_up").reshape(
        *normed.shape[:2], case.layout.tensor_parallel, 2, -1
    )  # each chip has some of both
    inner = (jax.nn.gelu(both[..., 0, :]) * both[..., 1, :]).reshape(*normed.shape[:2], -1)
    return (stream + _normed(_whole(_times(inner, layer, "down")), layer["ffn_after"]), cache), None


def _heads(projected: jax.Array, attention: Attention) -> jax.Array:
    return projected.reshape(*projected.shape[:2], -1, attention.head_dim)


def _whole(stream: jax.Array) -> jax.Array:
    """The residual stream on every chip of the group, as after an all-reduce."""
    return jax.lax.with_sharding_constraint(stream, PartitionSpec())


def _times(stream: jax.Array, layer: Arrays, name: str) -> jax.Array:
    matrix = layer[name]
    if matrix.dtype != jnp.int8:
        return jnp.einsum("btd,df->btf", stream, matrix, preferred_element_type=jnp.float32).astype(jnp.bfloat16)
    scale = jnp.abs(stream).max(-1, keepdims=True).astype(jnp.float32) / 127 + 1e-8
    rounded = jnp.round(stream / scale).astype(jnp.int8)
    product = jnp.einsum("btd,df->btf", rounded, matrix, preferred_element_type=jnp.int32)
    return (product * scale * layer[f"{name}_scale"]).astype(jnp.bfloat16)


def _normed(stream: jax.Array, weight: jax.Array) -> jax.Array:
    wide = stream.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + 1e-6) * weight).astype(jnp.bfloat16)


def _rotated(heads: jax.Array, positions: jax.Array) -> jax.Array:
    half = heads.shape[-1] // 2
    angles = positions[..., None, None] * 10_000.0 ** (-jnp.arange(half) / half)
    first, second = jnp.split(heads.astype(jnp.float32), 2, -1)
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], -1).astype(jnp.bfloat16)


def main() -> None:
    """Ends with one line where a program is refused for another reason than memory, or a slice cannot be described."""
    for line in sys.stdin:
        try:
            result = compile_case(case_from_json(line))
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            sys.exit(str(error).splitlines()[0])
        print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    main()

"""Whether a program that was compiled for a described slice is found and loaded by JAX's persistent cache on the real one.

    .venv-tpu/bin/python -m benchmarks.compile.cache_check make DIR --topology v6e:2x2     # here, without a TPU
    python -m benchmarks.compile.cache_check try DIR                                        # on such a slice, in the image

It is one product of matrices with a sum over all chips, so either takes seconds. The parts of JAX's key are compared.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_SIZE = 1024
_PARTS = "parts.json"
_HIT = "/jax/compilation_cache/cache_hits"


def main(argv: Sequence[str]) -> int:
    """Exit code 0: made, or found and loaded; 1: not found, or it computes something else."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compile.cache_check", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("what", choices=("make", "try"))
    parser.add_argument("directory", metavar="DIR", type=Path)
    parser.add_argument("--topology", default="v6e:2x2", help="that `make` describes (default: %(default)s)")
    options = parser.parse_args(argv)
    import jax  # after the options: --help needs none of it
    from jax.experimental import topologies

    jax.config.update("jax_compilation_cache_dir", str(options.directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if options.what == "make":
        jax.config.update("jax_platforms", "cpu")
        described = topologies.get_topology_desc(platform="tpu", topology_name=options.topology)
        parts, _, _ = _compiled(described.devices)
        (options.directory / _PARTS).write_text(json.dumps(parts))
        print(f"{options.directory}: has a program for {options.topology}")
        return 0
    parts, is_hit, program = _compiled(jax.devices())
    for name, value in json.loads((options.directory / _PARTS).read_text()).items():
        print(f"{name}: {'equal' if parts.get(name) == value else 'differs'}")
    ones = jax.device_put(jax.numpy.ones((_SIZE, _SIZE), "bfloat16"), program.input_shardings[0][0])
    is_right = float(program(ones)) == _SIZE**3
    print(f"found in the cache: {'yes' if is_hit else 'no'}; computes the right number: {'yes' if is_right else 'no'}")
    return 0 if is_hit and is_right else 1


def _compiled(devices: Sequence[Any]) -> tuple[dict[str, str], bool, Any]:
    """Hashes of the parts of JAX's key, whether the cache had the program, and the program."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    parts: dict[str, str] = {}
    hits: list[str] = []

    def note(line: logging.LogRecord) -> bool:
        if "hash of serialized" in str(line.msg) and isinstance(line.args, tuple):
            parts[str(line.args[0])] = str(line.args[1])
        return False

    log = logging.getLogger("jax._src.cache_key")  # says at this level what it hashes
    log.setLevel(logging.DEBUG)
    log.addFilter(note)
    jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event == _HIT else None)
    mesh = Mesh(list(devices), ("chips",))
    rows, whole = NamedSharding(mesh, PartitionSpec("chips")), NamedSharding(mesh, PartitionSpec())
    shape = jax.ShapeDtypeStruct((_SIZE, _SIZE), "bfloat16", sharding=rows)
    program = jax.jit(lambda x: jax.numpy.sum(x @ x.T, dtype="float32"), out_shardings=whole).lower(shape).compile()
    return parts, bool(hits), program


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

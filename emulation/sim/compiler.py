"""Warm-up of the simulated engine: a program for each batch size, slow to compile and kept on the host's disk as by JAX."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger("ray.serve")
_COMPILE_S = 0.25
"""Seconds for one program. On a slice it is a minute; here it only shows the difference between compiling and loading."""


async def warm_up(config: Mapping[str, Any], max_sequences: int) -> Any:
    """Compile the missing programs, and watch them from then on. Returns `Programs`, or None without a compile cache."""
    from apps.llm.compile_cache import Programs

    programs = Programs.of(config)
    if programs:
        compiled = await _compile(programs.own_directory(), max_sequences)
        logger.info(f"simulated warm-up: {compiled} programs compiled")
        programs.save()
    return programs


async def _compile(directory: Path, max_sequences: int) -> int:
    directory.mkdir(parents=True, exist_ok=True)
    sizes = [2**power for power in range(max_sequences.bit_length())]
    missing = [path for size in sizes if not (path := directory / f"simulated_step-{size}-cache").exists()]
    for path in missing:
        await asyncio.sleep(_COMPILE_S)
        path.write_bytes(path.name.encode())
    return len(missing)

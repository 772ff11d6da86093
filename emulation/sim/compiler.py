"""The simulated engine's warm-up: a program for each size of batch, slow to make, and kept on the host's disk as by JAX."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger("ray.serve")
_COMPILE_S = 0.25
"""Of one program. On a slice it is a minute; here only the difference between making and finding them is to be seen."""


async def warm_up(config: Mapping[str, Any], most_sequences: int) -> Any:
    """Make the programs that are not there, and watch them from then on: `Programs`, or None without a compile cache."""
    from apps.llm.compile_cache import Programs

    programs = Programs.of(config)
    if programs:
        made = await _compile(programs.own_directory(), most_sequences)
        logger.info(f"simulated warm-up: {made} programs compiled")
        programs.save()
    return programs


async def _compile(directory: Path, most_sequences: int) -> int:
    directory.mkdir(parents=True, exist_ok=True)
    sizes = [2**power for power in range(most_sequences.bit_length())]
    missing = [path for size in sizes if not (path := directory / f"simulated_step-{size}-cache").exists()]
    for path in missing:
        await asyncio.sleep(_COMPILE_S)
        path.write_bytes(path.name.encode())
    return len(missing)

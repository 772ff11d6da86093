"""A bucket of an emulated slice, which is a directory: what its hosts prefetch before the engine starts, as on a real slice."""

import json
import random
from pathlib import Path
from typing import Any

from apps.weights.args import HOST
from apps.weights.progress import Progress
from apps.weights.sources import open_source
from apps.weights.stage import stage
from apps.weights.store import Store

_STAND_IN_FILES = 4
_STAND_IN_FILE_BYTES = 16 * 1024**2


def stage_here(source: Path, temp_dir: Path) -> tuple[str, str]:
    """Stage a model directory; (its URL, the directory on each host), both in the stack's own directory."""
    url = f"file://{temp_dir}/bucket/model"
    stage(open_source(str(source), None), Store(url), Progress())
    return url, f"{temp_dir}/disks/{HOST}/model"


def stand_in(temp_dir: Path) -> Path:
    """For an engine that computes nothing: 64 MiB of seeded random bytes in the files that a model would have. No weights."""
    directory = temp_dir / "stand-in"
    directory.mkdir()
    draw = random.Random(0)  # noqa: S311 - bytes that only must be many
    for number in range(1, _STAND_IN_FILES + 1):
        name = f"model-{number:05d}-of-{_STAND_IN_FILES:05d}.safetensors"
        (directory / name).write_bytes(draw.randbytes(_STAND_IN_FILE_BYTES))
    note: dict[str, Any] = {"note": "a stand-in for the tests of an emulated slice: random bytes, no model"}
    (directory / "stand-in.json").write_text(json.dumps(note))
    return directory

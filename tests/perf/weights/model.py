"""A model to measure with: files of random bytes, and their manifest."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from apps.weights.manifest import MANIFEST_NAME, dumps
from apps.weights.progress import Progress
from apps.weights.sources import open_source
from apps.weights.stage import stage
from apps.weights.store import Store

FILE_BYTES = 10**9


def make_source(directory: Path, gb: int) -> None:
    """`gb` files of 1 GB that share their bytes on the disk, and the manifest of a model of them."""
    directory.mkdir(parents=True)
    first = directory / "model-0.safetensors"
    with Path("/dev/urandom").open("rb") as noise, first.open("wb") as file:
        for _ in range(FILE_BYTES // 10**7):
            file.write(noise.read(10**7))
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        (Path(scratch) / "model").mkdir()
        (Path(scratch) / "model" / first.name).hardlink_to(first)
        manifest = stage(open_source(f"{scratch}/model", None), Store(f"{scratch}/bucket"), Progress())
    files = tuple({**asdict(manifest.files[0]), "name": f"model-{number}.safetensors"} for number in range(gb))
    for number in range(1, gb):
        (directory / f"model-{number}.safetensors").hardlink_to(first)
    text = json.loads(dumps(manifest))
    (directory / MANIFEST_NAME).write_text(json.dumps({**text, "files": files}))

"""Real parts for the weights: a bucket, a hub, and seeded files that look like a model."""

import random
from collections.abc import Iterator

import pytest

from tests.weights.bucket import Bucket, running_bucket
from tests.weights.hub import Hub, running_hub

KIB = 1024


def model_files(seed: int = 0, scale: int = 1) -> dict[str, bytes]:
    """Two large files, one small, one empty, one in a folder, and two that no server reads."""
    draw = random.Random(seed)
    return {
        "config.json": b'{"model_type": "gemma"}',
        "model-00001-of-00002.safetensors": draw.randbytes(scale * 1000 * KIB + 17),
        "model-00002-of-00002.safetensors": draw.randbytes(scale * 300 * KIB),
        "assets/tokenizer.json": draw.randbytes(5 * KIB),
        "empty.txt": b"",
        ".gitattributes": b"*.safetensors lfs",
        "original/consolidated.pth": b"old form",
    }


def served(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files that are staged."""
    return {name: data for name, data in files.items() if not name.startswith((".", "original/"))}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with running_bucket() as running:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", running.endpoint)
        monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        yield running


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub(model_files()) as running:
        yield running

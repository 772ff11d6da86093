"""Manifests and folders that somebody has tampered with: refused in words, and nothing is written elsewhere."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.common.errors import ContentError, OperationError, UserError
from apps.weights import receipt
from apps.weights.manifest import MANIFEST_NAME, PARTIAL_NAME, loads
from apps.weights.prefetch import prefetch
from apps.weights.progress import Progress
from apps.weights.sources import open_source
from tests.weights.test_prefetch import PART_BYTES, contents, staged

MODEL = "model-00001-of-00002.safetensors"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    staged(str(tmp_path / "place"), tmp_path / "source")
    return tmp_path / "place"


def change(place: Path, **changes: Any) -> None:
    """Change the first large file's entry in the manifest."""
    path = place / MANIFEST_NAME
    manifest = json.loads(path.read_text())
    next(file for file in manifest["files"] if file["name"] == MODEL).update(changes)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a\0b"}, "not a plain relative path"),
        ({"name": "\ud83d"}, "not a plain relative path"),
        ({"name": "a\nb"}, "not a plain relative path"),
        ({"name": "a/" * 5000 + "a"}, "is longer than"),
        ({"name": "a" * 256}, "is longer than"),
        ({"name": "receipt.json"}, "this project's own"),
        ({"name": "manifest.json"}, "this project's own"),
        ({"name": ".partial/lock"}, "this project's own"),
        ({"name": "config.json/a"}, "is a file and a folder"),
        ({"name": 5}, "is not a manifest"),
        ({"size_bytes": 10**30}, "do not fit"),
        ({"size_bytes": -1}, "is -1"),
        ({"sha256": "abc"}, "checksums"),
        ({"part_crc32c": ["zz"] * 63}, "checksums"),
    ],
)
def test_an_entry_that_no_copy_may_have_is_refused(place: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    change(place, **changes)
    with pytest.raises(ContentError, match=f"is not a manifest of a staged model.*{message}|{message}") as refused:
        prefetch(str(place), tmp_path / "host", Progress())
    assert len(str(refused.value)) < 2000
    assert not (tmp_path / "host").exists()


def test_deep_json_is_refused() -> None:
    with pytest.raises(ContentError, match="is not a manifest"):
        loads("[" * 100_000, "here")


def test_a_receipt_of_impossible_names_is_refused(tmp_path: Path) -> None:
    entry = {"name": "a\0b", "size_bytes": 1, "mtime_ns": 1, "sha256": ""}
    (tmp_path / receipt.RECEIPT_NAME).write_text(json.dumps({"source": "", "created": "", "tool": "", "files": [entry]}))
    with pytest.raises(ContentError, match="cannot be read"):
        receipt.verify(tmp_path)
    (tmp_path / receipt.RECEIPT_NAME).write_text("[" * 100_000)
    with pytest.raises(ContentError, match="is not a receipt"):
        receipt.verify(tmp_path)


def test_a_file_that_cannot_be_staged_is_said_before(tmp_path: Path) -> None:
    (tmp_path / "a\nb").touch()
    with pytest.raises(UserError, match="leave it out with --ignore"):
        open_source(str(tmp_path), None)


def test_right_parts_of_another_whole_are_refused(place: Path, tmp_path: Path) -> None:
    host = tmp_path / "host"
    change(place, sha256="0" * 64)
    for _ in range(2):  # what is there of it is not believed the next time
        with pytest.raises(ContentError, match=rf"{MODEL} from .*the whole does not \(SHA-256"):
            prefetch(str(place), host, Progress())
        assert not (host / MODEL).exists()
        with pytest.raises(ContentError):
            receipt.verify(host)


def test_the_whole_is_compared_also_of_what_an_earlier_run_has_left(place: Path, tmp_path: Path) -> None:
    host = tmp_path / "host"
    prefetch(str(place), host, Progress())
    change(place, sha256="0" * 64)
    with pytest.raises(ContentError, match=rf"{MODEL} from .*the whole does not"):
        prefetch(str(place), host, Progress())


def _partial_is_a_link(host: Path, elsewhere: Path) -> None:
    host.mkdir()
    (host / PARTIAL_NAME).symlink_to(elsewhere)


def _a_growing_file_is_a_link(host: Path, elsewhere: Path) -> None:
    prefetch(str(host.parent / "place"), host, Progress())
    (host / receipt.RECEIPT_NAME).unlink()
    (host / MODEL).unlink()
    grows_as = hashlib.sha256(MODEL.encode()).hexdigest() + ".part"
    (host / PARTIAL_NAME / grows_as).symlink_to(elsewhere / "victim")


def _a_folder_is_a_link(host: Path, elsewhere: Path) -> None:
    host.mkdir()
    (host / "assets").symlink_to(elsewhere)


@pytest.mark.parametrize("tamper", [_partial_is_a_link, _a_growing_file_is_a_link, _a_folder_is_a_link])
def test_nothing_is_written_through_a_link(place: Path, tmp_path: Path, tamper: Callable[[Path, Path], None]) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "victim").write_text("precious")
    tamper(tmp_path / "host", elsewhere)
    with pytest.raises(OperationError, match="is a symbolic link"):
        prefetch(str(place), tmp_path / "host", Progress())
    assert {path.name: path.read_text() for path in elsewhere.iterdir()} == {"victim": "precious"}


def test_a_linked_file_is_replaced_and_not_followed(place: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in (tmp_path / "source").glob("*.json")}
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "config.json").symlink_to(victim)
    prefetch(str(place), tmp_path / "host", Progress())
    assert victim.read_text() == "precious"
    assert contents(tmp_path / "host", files) == files
    assert (tmp_path / "host" / MODEL).stat().st_size > PART_BYTES

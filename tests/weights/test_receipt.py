"""A receipt proves that a weights directory is whole; anything else is refused, and the file is named."""

import json
from pathlib import Path

import pytest

from apps.common.errors import ContentError
from apps.weights import local_manifest, receipt


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "sub" / "model.safetensors").write_bytes(b"0123456789")
    local_manifest.write_manifest(tmp_path, "here", "1", None)
    return tmp_path


def test_whole_directory_is_accepted_twice(weights: Path) -> None:
    assert [f.name for f in receipt.verify(weights).files] == ["config.json", "sub/model.safetensors"]
    assert receipt.verify(weights, deep=True) == receipt.read_receipt(weights)


def test_no_receipt_is_not_whole(weights: Path) -> None:
    (weights / receipt.RECEIPT_NAME).unlink()
    with pytest.raises(ContentError, match="never completed"):
        receipt.verify(weights)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"files": 3}', '{"files": [{"name": "x"}]}'])
def test_garbage_is_not_a_receipt(weights: Path, content: str) -> None:
    (weights / receipt.RECEIPT_NAME).write_text(content)
    with pytest.raises(ContentError, match="is not a receipt"):
        receipt.verify(weights)


def test_short_file_is_named(weights: Path) -> None:
    (weights / "sub" / "model.safetensors").write_bytes(b"01234")
    with pytest.raises(ContentError, match=r"model\.safetensors has 5 bytes, its receipt says 10"):
        receipt.verify(weights)


def test_missing_file_is_named(weights: Path) -> None:
    (weights / "config.json").unlink()
    with pytest.raises(ContentError, match=r"config\.json is missing"):
        receipt.verify(weights)


def test_changed_bytes_of_the_same_size_are_found(weights: Path) -> None:
    (weights / "sub" / "model.safetensors").write_bytes(b"012345678X")
    with pytest.raises(ContentError, match="SHA-256"):
        receipt.verify(weights)


def test_a_touched_file_with_the_same_content_is_accepted(weights: Path) -> None:
    (weights / "config.json").touch()
    receipt.verify(weights)


def test_deep_finds_what_size_and_time_hide(weights: Path) -> None:
    import os

    path = weights / "config.json"
    before = path.stat()
    path.write_text("[]")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    receipt.verify(weights)
    with pytest.raises(ContentError, match=r"config\.json differs"):
        receipt.verify(weights, deep=True)


def test_receipt_is_json_that_people_can_read(weights: Path) -> None:
    assert json.loads((weights / receipt.RECEIPT_NAME).read_text())["source"] == "here"

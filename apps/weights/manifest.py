"""A manifest: the list of a staged model's files, written last and beside them. A model without one does not count as staged.

It does not depend on where the files are: `receipt.json` proves one copy on one disk, the manifest states what a copy must be.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from apps.common.errors import ContentError
from apps.weights.receipt import RECEIPT_NAME

MANIFEST_NAME = "manifest.json"
PARTIAL_NAME = ".partial"
"""Folder in which files grow, beside their final place."""
PART_BYTES = 16 * 1024**2
"""Size of the parts that are read, checked and exchanged one by one; the last part of a file is shorter."""
_FORMAT = 1
_OWN_NAMES = (MANIFEST_NAME, RECEIPT_NAME, PARTIAL_NAME)
_LONGEST_NAME, _LONGEST_FOLDER = 1024, 255  # bytes: Cloud Storage's limit for an object, Linux's for each folder in it
_MAX_PARTS = 10_000_000  # 160 TB in parts of 16 MiB: more than any model


@dataclass(frozen=True)
class ManifestFile:
    """One file: name relative to the model, size in bytes, SHA-256 and CRC32C of the whole, CRC32C of each part (hex)."""

    name: str
    size_bytes: int
    sha256: str
    crc32c: str
    part_crc32c: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A range of a file, from `start` for `length` bytes, with its CRC32C."""

    file: str
    start: int
    length: int
    crc32c: str

    def __str__(self) -> str:
        return f"{self.file} bytes {self.start:,} to {self.start + self.length - 1:,}"


@dataclass(frozen=True)
class Manifest:
    """`source` and `revision` state where the files come from, `created` is UTC in ISO 8601, `licence` None where unknown."""

    source: str
    revision: str
    licence: str | None
    created: str
    tool: str
    part_bytes: int
    files: tuple[ManifestFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over what the files must be; equal for equal content, however and whenever it was staged."""
        content = sorted((file.name, file.size_bytes, file.sha256) for file in self.files)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def parts(self, name: str | None = None) -> list[Part]:
        """The parts of one file, or of all files in their order."""
        return [part for file in self.files if name in (None, file.name) for part in _parts(file, self.part_bytes)]


def part_ranges(size_bytes: int, part_bytes: int) -> list[tuple[int, int]]:
    """(start, length) of each part of a file; an empty file has none."""
    return [(start, min(part_bytes, size_bytes - start)) for start in range(0, size_bytes, part_bytes)]


def dumps(manifest: Manifest) -> str:
    """The manifest as JSON text."""
    return json.dumps({"format": _FORMAT, **asdict(manifest)}, indent=1) + "\n"


def now() -> str:
    """The current time in the form of manifests and receipts: UTC in ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def loads(text: str | bytes, where: str) -> Manifest:
    """The manifest in a JSON text from `where`. Raises `ContentError` if it is none, or lists what no copy may contain."""
    try:
        data: dict[str, Any] = json.loads(text)
        if data.pop("format") != _FORMAT:
            raise ValueError("written by a newer version of this project")
        files = tuple(file_from(entry) for entry in data.pop("files"))
        manifest = Manifest(**data, files=files)
        _check(manifest)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ContentError(f"{where} is not a manifest of a staged model ({error}): stage the model again") from error
    return manifest


def file_from(entry: dict[str, Any]) -> ManifestFile:
    """A file from its JSON form. Raises `TypeError` or `KeyError` for any other form."""
    return ManifestFile(**{**entry, "part_crc32c": tuple(entry["part_crc32c"])})


def _check(manifest: Manifest) -> None:
    _check_count("part_bytes", manifest.part_bytes, least=1)
    if not manifest.files:
        raise ValueError("it lists no files")
    names = {file.name for file in manifest.files}
    if len(names) != len(manifest.files):
        raise ValueError("it lists a file twice")
    for file in manifest.files:
        check_name(file.name)
        if folder := next((str(parent) for parent in PurePosixPath(file.name).parents if str(parent) in names), None):
            raise ValueError(f"{folder!r} is a file and a folder")
        _check_file(file, manifest.part_bytes)


def _check_file(file: ManifestFile, part_bytes: int) -> None:
    _check_count(f"the size of {file.name}", file.size_bytes, least=0)
    count = -(-file.size_bytes // part_bytes)
    if count > _MAX_PARTS or len(file.part_crc32c) != count:
        raise ValueError(f"the parts of {file.name} do not fit its size")
    if not all(_is_hex(text, 8) for text in (file.crc32c, *file.part_crc32c)) or not _is_hex(file.sha256, 64):
        raise ValueError(f"the checksums of {file.name} are not valid")


def _check_count(what: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{what} is {value!r}")


def _is_hex(text: Any, digits: int) -> bool:
    return isinstance(text, str) and bool(re.fullmatch(rf"[0-9a-f]{{{digits}}}", text))


def check_name(name: str) -> None:
    """Raise `ValueError` for a name that would not stay below the model's own directory, or has another meaning there."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or str(path) != name or "\\" in name or not name.isprintable():
        raise ValueError(f"{name[:_LONGEST_NAME]!r} is not a plain relative path")
    if len(name.encode()) > _LONGEST_NAME or any(len(part.encode()) > _LONGEST_FOLDER for part in path.parts):
        raise ValueError(f"{name[:64]!r}... is longer than {_LONGEST_NAME} bytes, or {_LONGEST_FOLDER} between two slashes")
    if path.parts[0] in _OWN_NAMES:
        raise ValueError(f"{name!r} has the name of a file that is this project's own")


def _parts(file: ManifestFile, part_bytes: int) -> list[Part]:
    ranges = part_ranges(file.size_bytes, part_bytes)
    return [Part(file.name, start, length, crc) for (start, length), crc in zip(ranges, file.part_crc32c, strict=True)]

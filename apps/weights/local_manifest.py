"""The manifest and the receipt of a model that was made here, in its directory, rather than brought from a bucket."""

import hashlib
from pathlib import Path

from apps.common.settings import name_and_version
from apps.weights import receipt
from apps.weights.checksums import crc32c
from apps.weights.manifest import MANIFEST_NAME, PART_BYTES, Manifest, ManifestFile, dumps, now


def write_manifest(directory: Path, source: str, revision: str, licence: str | None) -> Manifest:
    """Write down what the directory holds now: from here on it is whole, and any change to it shows."""
    names = sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())
    own = (MANIFEST_NAME, receipt.RECEIPT_NAME)
    files = tuple(_describe(directory, name) for name in names if name not in own)
    found = Manifest(source, revision, licence, now(), name_and_version(), PART_BYTES, files)
    (directory / MANIFEST_NAME).write_text(dumps(found))
    receipt.write_receipt(directory, receipt_for(directory, found, source))
    return found


def receipt_for(directory: Path, manifest: Manifest, source: str) -> receipt.Receipt:
    """The receipt of a copy whose every byte was compared with the manifest."""
    entries = []
    for file in manifest.files:
        status = (directory / file.name).stat()
        entries.append(receipt.FileEntry(file.name, status.st_size, status.st_mtime_ns, file.sha256))
    return receipt.Receipt(source, now(), name_and_version(), tuple(entries), manifest.digest)


def _describe(directory: Path, name: str) -> ManifestFile:
    sha256, whole, parts, size = hashlib.sha256(), "00000000", [], 0
    with (directory / name).open("rb") as file:
        while data := file.read(PART_BYTES):
            sha256.update(data)
            whole = crc32c(data, whole)
            parts.append(crc32c(data))
            size += len(data)
    return ManifestFile(name, size, sha256.hexdigest(), whole, tuple(parts))

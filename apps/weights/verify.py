"""Compare a copy with its receipt, and a staged model with its manifest."""

import functools
import hashlib
from pathlib import Path

import numpy as np

from apps.common.errors import ContentError
from apps.weights import receipt
from apps.weights.checksums import PIECE_BYTES, Buffer
from apps.weights.manifest import Manifest, ManifestFile, Part
from apps.weights.progress import Progress
from apps.weights.readers import RangeReader
from apps.weights.retry import with_retries
from apps.weights.store import Store, whole_manifest


def verify_directory(directory: Path, progress: Progress, *, deep: bool) -> receipt.Receipt:
    """Check a copy against its receipt, by size and time, or with `deep` by SHA-256. Raises as `receipt.verify`."""
    listed = receipt.verify(directory)
    if deep:
        progress.begin({file.name: file.size_bytes for file in listed.files}, "checked")
        for file in listed.files:
            receipt.verify_file(directory / file.name, file, deep=True)
            progress.advance(file.name, file.size_bytes, moved=True)
    return listed


def verify_url(url: str, progress: Progress, *, deep: bool) -> Manifest:
    """Check a staged model against its manifest, by size and checksum, or with `deep` by SHA-256. Returns the manifest.

    Raises:
        ContentError: nothing is staged there, or a file is missing or does not match; the file is named.
    """
    store = Store(url)
    wanted = whole_manifest(store)
    stored = store.find()
    for file in wanted.files:
        if (actual := stored.get(file.name)) is None:
            raise ContentError(f"{url}/{file.name} is missing, but the manifest lists it: stage the model again")
        if not actual.is_of(file):
            raise ContentError(f"{url}/{file.name} does not match the manifest (size or checksum): stage the model again")
    if deep:
        progress.begin({file.name: file.size_bytes for file in wanted.files}, "checked")
        reader = store.reader()
        for file in wanted.files:
            _check_content(wanted, file, reader, progress, url)
    return wanted


def _check_content(wanted: Manifest, file: ManifestFile, reader: RangeReader, progress: Progress, url: str) -> None:
    digest, buffer = hashlib.sha256(), np.empty(PIECE_BYTES, np.uint8)
    for part in wanted.parts(file.name):
        hash_part = functools.partial(_hashed_on, digest, reader, part, buffer)
        digest = with_retries(str(part), hash_part, on_retry=progress.retried)
        progress.advance(file.name, part.length, moved=True)
    if digest.hexdigest() != file.sha256:
        raise ContentError(f"{url}/{file.name} does not match the manifest (SHA-256): stage the model again")


def _hashed_on(digest: "hashlib._Hash", reader: RangeReader, part: Part, buffer: Buffer) -> "hashlib._Hash":
    """The digest of what came before the part, and of the part."""
    after = digest.copy()
    for piece in reader.pieces(part.file, part.start, part.length, buffer):
        after.update(piece.data)
    return after

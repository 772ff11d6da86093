"""Compare what is there with what must be there: a copy with its receipt, a staged model with its manifest."""

import functools
import hashlib
from pathlib import Path

import numpy as np

from apps.common.errors import ContentError
from apps.weights import receipt
from apps.weights.checksums import Buffer
from apps.weights.manifest import Manifest, ManifestFile, Part
from apps.weights.progress import Progress
from apps.weights.readers import RangeReader
from apps.weights.retry import with_retries
from apps.weights.store import Store, whole_manifest


def verify_directory(directory: Path, progress: Progress, *, deep: bool) -> receipt.Receipt:
    """The receipt of a copy whose files are all as it says: by size and time, or with `deep` by SHA-256.

    Raises:
        ContentError: no receipt, or a file that is not what it says; the file is named.
    """
    found = receipt.verify(directory)
    if deep:
        progress.begin({file.name: file.size_bytes for file in found.files}, "checked")
        for file in found.files:
            receipt.verify_file(directory / file.name, file, deep=True)
            progress.advance(file.name, file.size_bytes, moved=True)
    return found


def verify_url(url: str, progress: Progress, *, deep: bool) -> Manifest:
    """The manifest of a staged model whose files are all as it says: by size and checksum, or with `deep` by SHA-256.

    Raises:
        ContentError: nothing is staged there, or a file is missing or something else; the file is named.
    """
    store = Store(url)
    wanted = whole_manifest(store)
    stored = store.find()
    for file in wanted.files:
        if (found := stored.get(file.name)) is None:
            raise ContentError(f"{url}/{file.name} is missing, the manifest lists it: stage the model again")
        if not found.is_of(file):
            raise ContentError(f"{url}/{file.name} is not what the manifest says (size or checksum): stage the model again")
    if deep:
        progress.begin({file.name: file.size_bytes for file in wanted.files}, "checked")
        reader = store.reader()
        for file in wanted.files:
            _check_content(wanted, file, reader, progress, url)
    return wanted


def _read_part(reader: RangeReader, part: Part) -> Buffer:
    whole, scratch, done = np.empty(part.length, np.uint8), np.empty(part.length, np.uint8), 0
    for piece in reader.pieces(part.file, part.start, part.length, scratch):
        whole[done : done + len(piece)] = piece
        done += len(piece)
    return whole


def _check_content(wanted: Manifest, file: ManifestFile, reader: RangeReader, progress: Progress, url: str) -> None:
    digest = hashlib.sha256()
    for part in wanted.parts(file.name):
        data = with_retries(str(part), functools.partial(_read_part, reader, part), on_retry=progress.retried)
        digest.update(data.data)
        progress.advance(file.name, part.length, moved=True)
    if digest.hexdigest() != file.sha256:
        raise ContentError(f"{url}/{file.name} is not what the manifest says (SHA-256): stage the model again")

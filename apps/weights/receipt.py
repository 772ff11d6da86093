"""A receipt: the file in a weights directory that lists which files belong there and what they contain.

It is written last, so a directory without one is not whole. It knows nothing of models, buckets or Ray.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from apps.common.errors import ContentError

RECEIPT_NAME = "receipt.json"


@dataclass(frozen=True)
class FileEntry:
    """One file: name relative to the directory, size in bytes, modification time in ns, SHA-256 in hex."""

    name: str
    size_bytes: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True)
class Receipt:
    """Contents of a weights directory: where they came from, when (UTC in ISO 8601), and the manifest that they match."""

    source: str
    created: str
    tool: str
    files: tuple[FileEntry, ...]
    manifest_digest: str | None = None


def write_receipt(directory: Path, receipt: Receipt) -> None:
    """Write the receipt so that it is either whole or absent after a crash."""
    temporary = directory / f".{RECEIPT_NAME}.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    with temporary.open("x") as file:  # never through a link that somebody has placed there
        json.dump(asdict(receipt), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / RECEIPT_NAME)


def read_receipt(directory: Path) -> Receipt | None:
    """The directory's receipt; None where there is none. Raises `ContentError` for a file that is not a receipt."""
    path = directory / RECEIPT_NAME
    try:
        data = json.loads(path.read_text())
        return Receipt(**{**data, "files": tuple(FileEntry(**entry) for entry in data["files"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ContentError(f"{path} is not a receipt ({error}); remove {directory} and start again") from error


def verify(directory: Path, *, deep: bool = False) -> Receipt:
    """Check every file against the receipt: size and time, or with `deep` the content too.

    Raises:
        ContentError: no receipt, or a file that is missing or does not match the receipt; the file is named.
    """
    receipt = read_receipt(directory)
    if receipt is None:
        raise ContentError(f"{directory} has no {RECEIPT_NAME}: it was never completed")
    for entry in receipt.files:
        verify_file(directory / entry.name, entry, deep=deep)
    return receipt


def is_whole(directory: Path, manifest_digest: str | None = None) -> bool:
    """True when every file matches the directory's receipt by size and time, and that is for the manifest of this digest."""
    try:
        return verify(directory).manifest_digest == manifest_digest or manifest_digest is None
    except ContentError:
        return False


def verify_file(path: Path, entry: FileEntry, *, deep: bool) -> None:
    """Check one file against its entry; raises as `verify`."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise ContentError(f"{path} is missing, but its receipt lists it") from None
    except (OSError, ValueError) as error:  # a name that no file can have
        raise ContentError(f"{str(path)[:300]!r} cannot be read ({error}), but its receipt lists it") from None
    if status.st_size != entry.size_bytes:
        raise ContentError(f"{path} has {status.st_size} bytes, but {entry.size_bytes} in its receipt")
    if deep or status.st_mtime_ns != entry.mtime_ns:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        if content != entry.sha256:
            raise ContentError(f"{path} differs from its receipt (SHA-256); remove the directory and fetch it again")

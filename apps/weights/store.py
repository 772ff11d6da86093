"""Storage of a staged model, or of other files: a URL of fsspec (`gs://bucket/model`, `file:///data/model`, a path), its files.

The only module that opens buckets. A refusal by Cloud Storage becomes an error whose message tells the user what to do.
"""

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.common.errors import BundleError, ContentError, OperationError, UserError
from apps.common.settings import prepare_gcsfs
from apps.weights import checksums, manifest
from apps.weights.readers import FileReader, HttpReader, RangeReader
from apps.weights.retry import STALL_S

_COMPOSE_MAX = 32  # objects that one compose request of Cloud Storage takes


@dataclass(frozen=True)
class Stored:
    """Size of a file in bytes, and CRC32C in hex where the storage has it."""

    size_bytes: int
    crc32c: str | None

    def is_of(self, file: manifest.ManifestFile) -> bool:
        """True where neither the size nor the checksum shows that it is another file."""
        return self.size_bytes == file.size_bytes and self.crc32c in (None, file.crc32c)


class Store:
    """Files below one URL."""

    def __init__(self, url: str) -> None:
        self._fs, self._root = _open(url)
        self.url = url.rstrip("/")
        self._local = "file" in self._fs.protocol  # which is a tuple or a text
        self._is_gcs = hasattr(self._fs, "merge")

    def manifest(self) -> manifest.Manifest | None:
        """Manifest of the model that is staged here; None without a whole model. Raises `ContentError` if it is not valid."""
        text = self.read(manifest.MANIFEST_NAME)
        return None if text is None else manifest.loads(text, f"{self.url}/{manifest.MANIFEST_NAME}")

    def read(self, name: str) -> bytes | None:
        """Content of a small file; None where it is missing."""
        with self._explained():
            try:
                return bytes(self._fs.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically: another reader sees all of it, or nothing."""
        with self._explained():
            path = self._path(name)
            if not self._local:
                self._fs.pipe_file(path, data)
                return
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(f"{path}.new", data)
            Path(f"{path}.new").replace(path)

    def download(self, name: str, path: Path) -> None:
        """Copy a file to this machine's disk, whatever its size."""
        with self._explained():
            self._fs.get_file(self._path(name), str(path))

    def upload(self, name: str, path: Path) -> None:
        """Copy a file of this machine's disk here; in a bucket it is seen once it is whole."""
        with self._explained():
            self._fs.put_file(str(path), self._path(name))

    def stat(self, name: str) -> Stored | None:
        """Size and checksum of a file; None where it is missing."""
        with self._explained():
            try:
                return _stored(self._fs.info(self._path(name)))
            except FileNotFoundError:
                return None

    def find(self, folder: str = "") -> dict[str, Stored]:
        """Every file below a folder, by its name relative to the top."""
        with self._explained():
            try:
                infos: dict[str, Any] = self._fs.find(self._path(folder), detail=True)
            except FileNotFoundError:
                return {}
        return {path.removeprefix(self._root).lstrip("/"): _stored(info) for path, info in infos.items()}

    def join(self, name: str, parts: list[str]) -> None:
        """Join parts into one file, in their order. Cloud Storage does it without copying a byte."""
        with self._explained():
            try:
                if self._is_gcs:
                    self._compose(self._path(name), [self._path(part) for part in parts])
                else:
                    self._concatenate(name, parts)
            except FileNotFoundError as error:
                message = f"{self.url}: parts of {name} disappeared ({error}): does another process stage it? Start again"
                raise OperationError(message) from error

    def remove(self, folder: str) -> None:
        """Remove a folder and all below it; nothing happens where it is missing."""
        with self._explained(), contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._path(folder), recursive=True)

    def reader(self, stall_s: float = STALL_S) -> RangeReader:
        """The fastest reader of ranges of these files."""
        if self._is_gcs:
            return HttpReader(lambda name: str(self._fs.url(self._path(name))), self._authorization, stall_s)
        return FileReader(self._fs, self._root)

    def location(self) -> str | None:
        """Region of the bucket in lower case; None where there is none."""
        if not self._is_gcs:
            return None
        with self._explained():
            region = self._fs.info(self._root.split("/")[0]).get("location")
        return str(region).lower() if region else None

    def _authorization(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        self._fs.credentials.apply(headers)
        return headers

    def _compose(self, path: str, parts: list[str]) -> None:
        level = 0
        while len(parts) > _COMPOSE_MAX:
            groups = [parts[at : at + _COMPOSE_MAX] for at in range(0, len(parts), _COMPOSE_MAX)]
            parts = [f"{group[0]}.joined-{level}" for group in groups]
            for joined, group in zip(parts, groups, strict=True):
                self._fs.merge(joined, group)
            level += 1
        self._fs.merge(path, parts)

    def _concatenate(self, name: str, parts: list[str]) -> None:
        path = self._path(name)
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        temporary = f"{path}.new" if self._local else path
        with self._fs.open(temporary, "wb") as file:
            for part in parts:
                file.write(self._fs.cat_file(self._path(part)))
        if self._local:
            Path(temporary).replace(path)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except BundleError:
            raise
        except Exception as error:
            raise explain(error, self.url) from error


def explain(error: Exception, url: str) -> BundleError:
    """The error of this project for a failure of a file system, with what to do about it."""
    text, code = " ".join(f"{type(error).__name__}: {error}".split()), getattr(error, "code", None)
    bucket = url.removeprefix("gs://").split("/")[0]
    if url.startswith("gs://") and (code == 404 or isinstance(error, FileNotFoundError)):  # a missing file was handled before
        return UserError(f"{url}: there is no bucket {bucket!r}; make it first (`gcloud storage buckets create gs://{bucket}`)")
    if code in (401, 403) or isinstance(error, PermissionError) or "Forbidden" in text or "DefaultCredentials" in text:
        return OperationError(
            f"{url}: no permission ({text}). Reading needs roles/storage.objectViewer on the bucket, writing needs "
            "roles/storage.objectUser; on a laptop, `gcloud auth application-default login`"
        )
    if code == 429 or "quota" in text.lower():
        return OperationError(
            f"{url}: Cloud Storage refuses more requests for now ({text}); what is there stays, try again later"
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return OperationError(f"{url}: the disk is full; what is there stays, make room and start again")
    return OperationError(f"{url}: {text}")


def _open(url: str) -> tuple[Any, str]:
    import fsspec

    if not url.partition("://")[2 if "://" in url else 0].strip("/"):
        raise UserError(f"{url!r} names no bucket or directory: give one such as gs://BUCKET/MODEL")
    options: dict[str, Any] = {}
    if url.startswith(("gs://", "gcs://")):
        prepare_gcsfs()
        options = {
            **{"use_listings_cache": False, "skip_instance_cache": True},  # another process may be writing there
            "session_kwargs": {"trust_env": True},  # the user's proxy, which aiohttp does not take by itself
        }
    try:
        fs, root = fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise UserError(
            f"{url!r} is not a place for weights: {error}; give gs://BUCKET/MODEL, file:///DIR or a directory"
        ) from error
    except Exception as error:
        raise explain(error, url) from error
    return fs, str(root).rstrip("/")


def _stored(info: dict[str, Any]) -> Stored:
    checksum = info.get("crc32c")
    return Stored(int(info["size"]), checksums.from_base64(checksum) if checksum else None)


def whole_manifest(store: Store) -> manifest.Manifest:
    """The manifest of a store that must hold a model. Raises `ContentError` if there is none, or it is not valid."""
    staged = store.manifest()
    if staged is None:
        raise ContentError(
            f"{store.url} has no {manifest.MANIFEST_NAME}: nothing is staged there, or staging has not finished; run "
            f"`python -m apps.weights stage SOURCE --to {store.url}`"
        )
    return staged

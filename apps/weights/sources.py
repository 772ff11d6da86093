"""Sources of a model to be staged: a repository of the Hugging Face hub at one commit, or a local directory."""

import fnmatch
import functools
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.common.errors import OperationError, UserError
from apps.weights.hub_reader import HubReader, explain
from apps.weights.manifest import MANIFEST_NAME, check_name
from apps.weights.receipt import RECEIPT_NAME

IGNORED = ("original/*", "*.gguf", "*.pth", "*.onnx", "*.msgpack", "*.h5", ".*")
"""Files that a server of safetensors never reads."""
_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class SourceFile:
    """A file's name, its size in bytes, and the checksum that its source states: a SHA-256, a git blob id, or none.

    Raises `ValueError` for a name that no copy may have.
    """

    name: str
    size_bytes: int
    sha256: str | None = None
    git_blob: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name)


@dataclass(frozen=True)
class Source:
    """A model at one revision. `read` returns a part of a file, from its name, a start and a length; threads may share it."""

    name: str
    revision: str
    licence: str | None
    files: tuple[SourceFile, ...]
    read: Callable[[str, int, int], bytes]


def open_source(source: str, revision: str | None, allow: Sequence[str] = (), ignore: Sequence[str] = IGNORED) -> Source:
    """Open a hub id (`google/gemma-4-31B-it`) or a directory as a source; `allow` and `ignore` are patterns of file names.

    Raises:
        UserError: no such directory or repository, or nothing in it matches.
        OperationError: the hub refuses this user, or does not answer.
    """
    path = Path(source).expanduser()
    if source and path.is_dir():
        if revision is not None:
            raise UserError(f"--revision {revision}: a local directory has no revisions")
        opened = _local_source(path.resolve(), allow, ignore)
    elif source.count("/") == 1 and not source.startswith((".", "/", "~")):
        opened = _hub_source(source, revision, allow, ignore)
    else:
        raise UserError(f"{source!r} is neither a directory nor a hub id such as google/gemma-4-31B-it")
    if not opened.files:
        raise UserError(f"{source}: no file is left by --allow {list(allow)} and --ignore {list(ignore)}")
    return opened


def _local_source(root: Path, allow: Sequence[str], ignore: Sequence[str]) -> Source:
    """Files below a directory; their content is hashed on the way.

    The revision stands for names, sizes and times: a changed file makes another revision, and nothing of the old one is used.
    """
    names = (str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.is_file())
    own = {MANIFEST_NAME, RECEIPT_NAME}
    statuses = {name: (root / name).stat() for name in names if name not in own and _wanted(name, allow, ignore)}
    state = repr([(name, status.st_size, status.st_mtime_ns) for name, status in statuses.items()])
    revision = f"local-{hashlib.sha256(state.encode()).hexdigest()[:12]}"
    try:
        files = tuple(SourceFile(name, status.st_size) for name, status in statuses.items())
    except ValueError as error:
        raise UserError(f"{root} has a file that cannot be staged: {error}; rename it, or leave it out with --ignore") from None
    return Source(str(root), revision, None, files, functools.partial(_read_local, root))


def _read_local(root: Path, name: str, start: int, length: int) -> bytes:
    try:
        with (root / name).open("rb") as file:
            file.seek(start)
            data = file.read(length)
    except OSError as error:
        raise OperationError(f"{root / name} cannot be read: {error.strerror}") from error
    if len(data) != length:
        raise OperationError(f"{root / name} became shorter while it was read: stage it while nothing writes to it")
    return data


def _hub_source(repository: str, revision: str | None, allow: Sequence[str], ignore: Sequence[str]) -> Source:
    """Files of a repository, at the commit that a revision names now."""
    from huggingface_hub import HfApi

    logging.getLogger("httpx").setLevel(logging.WARNING)  # it writes a line for every request
    try:
        info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=_TIMEOUT_S)
    except Exception as error:
        raise explain(error, repository, revision) from error
    try:
        files = tuple(_hub_file(entry) for entry in info.siblings or [] if _wanted(entry.rfilename, allow, ignore))
    except ValueError as error:
        raise OperationError(f"{repository} has a file that must not be staged: {error}; leave it out with --ignore") from error
    commit = str(info.sha)
    return Source(f"hub:{repository}", commit, _licence(info), files, HubReader(repository, commit).read)


def git_blob_id(data: bytes) -> str:
    """Git's id for a file of that content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _wanted(name: str, allow: Sequence[str], ignore: Sequence[str]) -> bool:
    if any(fnmatch.fnmatch(name, pattern) for pattern in ignore):
        return False
    return not allow or any(fnmatch.fnmatch(name, pattern) for pattern in allow)


def _hub_file(sibling: Any) -> SourceFile:
    lfs = sibling.lfs
    return SourceFile(sibling.rfilename, int(sibling.size), lfs.sha256 if lfs else None, None if lfs else sibling.blob_id)


def _licence(info: Any) -> str | None:
    tags = (tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:"))
    licence = (info.card_data or {}).get("license") or next(tags, None)
    return str(licence) if licence else None

"""Where a model to be staged comes from: a repository of the Hugging Face hub at one commit, or a local directory."""

import fnmatch
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from apps.common.errors import BundleError, OperationError, UserError
from apps.weights.manifest import MANIFEST_NAME, check_name
from apps.weights.receipt import RECEIPT_NAME
from apps.weights.retry import TransientError, with_retries

IGNORED = ("original/*", "*.gguf", "*.pth", "*.onnx", "*.msgpack", "*.h5", ".*")
"""What a server of safetensors never reads."""
_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class SourceFile:
    """A file's name, its size in bytes, and what its source says of the content: a SHA-256, a git blob id, or nothing."""

    name: str
    size_bytes: int
    sha256: str | None = None
    git_blob: str | None = None


class Source(Protocol):
    """A model at one revision."""

    name: str
    revision: str
    licence: str | None
    files: tuple[SourceFile, ...]

    def read(self, name: str, start: int, length: int) -> bytes: ...


def open_source(source: str, revision: str | None, allow: Sequence[str] = (), ignore: Sequence[str] = IGNORED) -> Source:
    """A hub id (`google/gemma-4-31B-it`) or a directory as a source; `allow` and `ignore` are patterns of file names.

    Raises:
        UserError: no such directory or repository, or nothing in it matches.
        OperationError: the hub does not let this user in, or does not answer.
    """
    path = Path(source).expanduser()
    if source and path.is_dir():
        if revision is not None:
            raise UserError(f"--revision {revision}: a local directory has no revisions")
        found: Source = LocalSource(path.resolve(), allow, ignore)
    elif source.count("/") == 1 and not source.startswith((".", "/", "~")):
        found = HubSource(source, revision, allow, ignore)
    else:
        raise UserError(f"{source!r} is neither a directory nor a hub id such as google/gemma-4-31B-it")
    if not found.files:
        raise UserError(f"{source}: no file is left by --allow {list(allow)} and --ignore {list(ignore)}")
    return found


class LocalSource:
    """Files below a directory; what it contains is hashed on the way.

    Its revision stands for names, sizes and times: after a change of a file it is another one, and nothing of the old is used.
    """

    def __init__(self, root: Path, allow: Sequence[str], ignore: Sequence[str]) -> None:
        self.licence: str | None = None
        self.name = str(root)
        self._root = root
        names = (str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.is_file())
        own = {MANIFEST_NAME, RECEIPT_NAME}
        found = {name: (root / name).stat() for name in names if name not in own and _wanted(name, allow, ignore)}
        try:
            self.files = tuple(_local_file(name, status.st_size) for name, status in found.items())
        except ValueError as error:
            raise UserError(
                f"{root} has a file that cannot be staged: {error}; rename it, or leave it out with --ignore"
            ) from None
        state = repr([(name, status.st_size, status.st_mtime_ns) for name, status in found.items()])
        self.revision = f"local-{hashlib.sha256(state.encode()).hexdigest()[:12]}"

    def read(self, name: str, start: int, length: int) -> bytes:
        try:
            with (self._root / name).open("rb") as file:
                file.seek(start)
                data = file.read(length)
        except OSError as error:
            raise OperationError(f"{self._root / name} cannot be read: {error.strerror}") from error
        if len(data) != length:
            raise OperationError(f"{self._root / name} became shorter while it was read: stage it when nothing writes to it")
        return data


class HubSource:
    """Files of a repository, at the commit that a revision names now."""

    def __init__(self, repository: str, revision: str | None, allow: Sequence[str], ignore: Sequence[str]) -> None:
        from huggingface_hub import HfApi

        logging.getLogger("httpx").setLevel(logging.WARNING)  # it writes a line for every request
        try:
            info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=_TIMEOUT_S)
        except Exception as error:
            raise _explain(error, repository, revision) from error
        self.name = f"hub:{repository}"
        self._repository = repository
        self.revision = str(info.sha)
        self.licence = _licence(info)
        try:
            self.files = tuple(_hub_file(one) for one in info.siblings or [] if _wanted(one.rfilename, allow, ignore))
        except ValueError as error:
            raise OperationError(
                f"{repository} has a file that must not be staged: {error}; leave it out with --ignore"
            ) from error

    def read(self, name: str, start: int, length: int) -> bytes:
        return with_retries(f"{name} bytes {start:,} to {start + length - 1:,}", lambda: self._read(name, start, length))

    def _read(self, name: str, start: int, length: int) -> bytes:
        from huggingface_hub import hf_hub_url, utils

        url = hf_hub_url(self._repository, name, revision=self.revision)
        headers = {**utils.build_hf_headers(), "range": f"bytes={start}-{start + length - 1}"}
        try:
            answer = utils.http_backoff("GET", url, headers=headers, timeout=_TIMEOUT_S, base_wait_time=0.5)
            utils.hf_raise_for_status(answer)
            data = bytes(answer.content)
        except Exception as error:
            raise _explain(error, self._repository, self.revision) from error
        if answer.status_code == 200 and len(data) > length:
            data = data[start : start + length]  # a server without ranges
        if len(data) != length:
            raise TransientError(f"the hub sent {len(data):,} bytes for {length:,}")
        return data


def git_blob_id(data: bytes) -> str:
    """The id under which git keeps a file of that content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _wanted(name: str, allow: Sequence[str], ignore: Sequence[str]) -> bool:
    if any(fnmatch.fnmatch(name, pattern) for pattern in ignore):
        return False
    return not allow or any(fnmatch.fnmatch(name, pattern) for pattern in allow)


def _local_file(name: str, size_bytes: int) -> SourceFile:
    check_name(name)
    return SourceFile(name, size_bytes)


def _hub_file(sibling: Any) -> SourceFile:
    check_name(sibling.rfilename)
    lfs = sibling.lfs
    return SourceFile(sibling.rfilename, int(sibling.size), lfs.sha256 if lfs else None, None if lfs else sibling.blob_id)


def _licence(info: Any) -> str | None:
    tags = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
    card = (info.card_data or {}).get("license") if info.card_data else None
    return str(card or tags[0]) if card or tags else None


def _explain(error: Exception, repository: str, revision: str | None) -> BundleError:
    from huggingface_hub import errors

    where = f"{repository}{f' at {revision}' if revision else ''}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    token = "a token in HF_TOKEN (an environment variable, never an option)"  # noqa: S105 - a sentence
    match error:
        case errors.GatedRepoError():
            return OperationError(f"{where} is gated: accept its licence on the hub, and give {token} of that account")
        case errors.RevisionNotFoundError():
            return UserError(f"{repository} has no revision {revision!r}: give a branch, a tag or a commit")
        case errors.EntryNotFoundError():
            return OperationError(f"{where}: a file went away while it was read ({error})")
        case errors.HFValidationError():
            return UserError(f"{repository!r} is no hub id: {error}")
        case errors.RepositoryNotFoundError():
            return UserError(f"the hub has no model {repository!r} that you may see: check the name, or give {token}")
    if status == 401:
        return OperationError(
            f"{where}: the hub does not know this token: give {token} that is valid, or none for an open model"
        )
    if status == 403:
        return OperationError(f"{where}: this token may not read it: give {token} with read access")
    if status == 429:
        return OperationError(f"{where}: the hub refuses more requests for now (429); what is staged stays, try again later")
    if status and status >= 500:
        return OperationError(f"{where}: the hub fails ({status}); what is staged stays, try again later")
    return OperationError(f"{where}: the hub gave no answer ({type(error).__name__}: {error})")

"""The input of a batch: its files, and a check of all lines before any is sent."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.batch.lines import MAX_LINE_BYTES, BatchRequest, parse_request
from apps.common.errors import UserError
from apps.weights.store import Store

_MAX_NAMED = 20  # bad lines in a message


def is_remote(address: str) -> bool:
    return "://" in address and not address.startswith("file://")


def local_path(address: str) -> Path:
    return Path(address.removeprefix("file://")).expanduser()


def fetch(address: str, folder: Path) -> dict[str, Path]:
    """The input's files on this machine, by the names that the user knows; those of a bucket are copied to `folder`."""
    files: dict[str, Path] = {}
    if is_remote(address):
        store = Store(address)
        for number, name in enumerate(sorted(store.find())):
            if not name or name.endswith(".jsonl"):
                store.download(name, folder / f"input-{number}")
                files[f"{address.rstrip('/')}/{name}".rstrip("/")] = folder / f"input-{number}"
    else:
        path = local_path(address)
        paths = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path] if path.is_file() else []
        files = {str(each): each for each in paths}
    if not files:
        raise UserError(f"{address}: no such file, nor a folder with files *.jsonl")
    return files


@dataclass(frozen=True)
class Source:
    """Files that were checked: `requests` can be read from them. Another digest means other requests."""

    files: dict[str, Path]
    model: str | None
    digest: str = ""
    count: int = 0

    @property
    def batch(self) -> str:
        """The beginning of each answer's id, by which the answers to this input are known."""
        return f"batch_req_{self.digest[:16]}"

    def requests(self, done: dict[int, int]) -> Iterator[BatchRequest]:
        """The requests whose numbers are not done. Raises `UserError` if the files are no longer what was checked."""
        digest = _new_digest(self.model)
        for number, (where, line) in enumerate(_lines(self.files, digest), start=1):
            if number not in done:
                try:
                    yield parse_request(line, number, self.model)
                except ValueError as error:
                    raise UserError(f"{where}: {error}: the input was changed during the run") from error
        if digest.hexdigest() != self.digest:
            raise UserError(
                f"{', '.join(self.files)}: changed during the run: remove the draft beside the output, and begin again"
            )


def check(files: dict[str, Path], model: str | None) -> Source:
    """Read all lines. Raises `UserError` that names the bad ones."""
    digest, count, bad, places = _new_digest(model), 0, [], dict[str, str]()
    for count, (where, line) in enumerate(_lines(files, digest), start=1):
        try:
            custom_id = parse_request(line, count, model).custom_id
            if (first := places.setdefault(custom_id, where)) != where:
                raise ValueError(f"custom_id {custom_id[:80]!r} is also that of {first}")
        except ValueError as error:
            bad.append(f"{where}: {error}")
    if bad:
        more = f"\n... and {len(bad) - _MAX_NAMED} more" if len(bad) > _MAX_NAMED else ""
        raise UserError(f"{len(bad)} of {count} lines are bad; nothing was sent\n" + "\n".join(bad[:_MAX_NAMED]) + more)
    if not count:
        raise UserError(f"{', '.join(files)}: no requests in it")
    return Source(files, model, digest.hexdigest(), count)


def _new_digest(model: str | None) -> Any:
    return hashlib.sha256(f"{model}\n".encode())


def _lines(files: dict[str, Path], digest: Any) -> Iterator[tuple[str, bytes]]:
    """Lines that are not blank, each with `file:line`; of one that is too long only the beginning. All goes into `digest`."""
    for name, path in files.items():
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                digest.update(line)
                rest = line
                while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                    rest = file.readline(MAX_LINE_BYTES + 1)
                    digest.update(rest)
                if line.strip():
                    yield f"{name}:{number}", line
        digest.update(b"\0")

"""Bring a staged model to this host's disk: read what is missing, check it, and leave a receipt."""

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apps.errors import ContentError, OperationError
from apps.weights import receipt
from apps.weights.crc32c import Buffer, crc32c
from apps.weights.local_copy import LocalCopy
from apps.weights.manifest import Manifest, Part
from apps.weights.progress import Progress
from apps.weights.readers import STALL_S, RangeReader
from apps.weights.retry import PassingError, with_retries
from apps.weights.store import Store, whole_manifest

PARALLEL = 16  # one connection to a bucket is slow, and hosts have many cores
logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Outcome:
    """What a prefetch did: bytes of the model, and how many of them were read from its source by this run."""

    size_bytes: int
    read_bytes: int


def prefetch(url: str, directory: Path, progress: Progress, *, parallel: int = PARALLEL, stall_s: float = STALL_S) -> Outcome:
    """Make `directory` a whole copy of the model that is staged at `url`; what is there and right is not read again.

    Raises:
        ContentError: nothing is staged there, or it is not what its manifest says; the file is named.
        OperationError: the source cannot be read, or the directory cannot be written.
        UserError: the disk has no room, or the URL is none.
    """
    store = Store(url)
    try:
        wanted = whole_manifest(store)
    except OperationError as error:
        return without_source(url, directory, error)
    with LocalCopy(wanted, url, directory) as copy:
        if copy.is_whole():
            return Outcome(wanted.size_bytes, 0)
        parts = copy.missing()
        begin(progress, wanted, parts)
        fetch(copy, parts, store.reader(stall_s), progress, parallel)
        copy.finish()
    return Outcome(wanted.size_bytes, sum(part.length for part in parts))


def begin(progress: Progress, wanted: Manifest, missing: list[Part]) -> None:
    """Show the files, with what is there already."""
    progress.begin({file.name: file.size_bytes for file in wanted.files}, "fetched")
    there = {file.name: file.size_bytes for file in wanted.files}
    for part in missing:
        there[part.file] -= part.length
    for name, size_bytes in there.items():
        progress.advance(name, size_bytes, moved=False)


def fetch(
    copy: LocalCopy,
    parts: list[Part],
    reader: RangeReader,
    progress: Progress,
    parallel: int = PARALLEL,
    on_part: Callable[[Part], None] = lambda _: None,
) -> None:
    """Read parts from several threads into a copy, and tell of each. The first failure ends it; what was written stays."""
    waiting: queue.SimpleQueue[Part] = queue.SimpleQueue()
    for part in parts:
        waiting.put(part)
    failures: list[BaseException] = []

    def work() -> None:
        buffer = np.empty(copy.manifest.part_bytes, np.uint8)
        try:
            while not failures:
                part = waiting.get_nowait()
                copy.write(part, read_part(reader, part, buffer, progress))
                progress.advance(part.file, part.length, moved=True)
                on_part(part)
        except queue.Empty:
            return
        except BaseException as error:  # raised in the caller's thread
            failures.append(error)

    threads = [threading.Thread(target=work, name=f"fetch-{n}", daemon=True) for n in range(min(parallel, len(parts)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def read_part(reader: RangeReader, part: Part, buffer: Buffer, progress: Progress) -> Buffer:
    """A part's bytes, in the front of `buffer`, read again where that may help.

    Raises:
        ContentError: they came twice, and twice not as the manifest says.
        OperationError: they did not come.
    """
    view, wrong = buffer[: part.length], 0

    def attempt() -> Buffer:
        nonlocal wrong
        reader.read_into(part.file, part.start, view)
        if crc32c(view) != part.crc32c:
            wrong += 1
            if wrong == 2:
                raise ContentError(f"{part}: not what the manifest says; the model must be staged anew")
            raise PassingError("not what the manifest says")
        return view

    return with_retries(str(part), attempt, on_retry=progress.retried)


def without_source(url: str, directory: Path, error: OperationError) -> Outcome:
    """Where the bucket cannot be asked, a whole copy of it is enough to serve; without one the `error` is raised."""
    try:
        found = receipt.verify(directory)
    except ContentError:
        raise error from None
    if not found.source.startswith(f"{url} "):
        raise error
    logger.warning(f"{error}; {directory} has a whole copy of {url} from {found.created}, which is used")
    return Outcome(sum(file.size_bytes for file in found.files), 0)

"""Copy a staged model to this host's disk: read what is missing, check it, and leave a receipt."""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from apps.common.errors import ContentError, OperationError
from apps.weights import receipt
from apps.weights.args import MAX_CONNECTIONS
from apps.weights.checksums import PIECE_BYTES, Buffer
from apps.weights.local_copy import LocalCopy, WrongBytesError
from apps.weights.manifest import Manifest, Part
from apps.weights.progress import Progress
from apps.weights.readers import RangeReader
from apps.weights.retry import STALL_S, with_retries
from apps.weights.store import Store, whole_manifest

_FIRST_THREADS = 4
_STEP_S = 0.1
_BUSY = 0.5  # of the cores: above it the threads do not wait for the network
logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Outcome:
    """What a prefetch did: bytes of the model, and how many of them were read from its source by this run."""

    size_bytes: int
    read_bytes: int


def prefetch(
    url: str, directory: Path, progress: Progress, *, parallel: int = MAX_CONNECTIONS, stall_s: float = STALL_S
) -> Outcome:
    """Make `directory` a whole copy of the model that is staged at `url`; what is already there and right is not read again.

    Raises:
        ContentError: nothing is staged there, or it does not match its manifest; the file is named.
        OperationError: the source cannot be read, or the directory cannot be written.
        UserError: the disk has too little room, or the URL is not valid.
    """
    store = Store(url)
    try:
        wanted = whole_manifest(store)
    except OperationError as error:
        return without_source(directory, url, error)
    with LocalCopy(wanted, url, directory) as copy:
        if copy.is_whole():
            return Outcome(wanted.size_bytes, 0)
        parts = copy.missing()
        begin(progress, wanted, parts)
        fetch(copy, parts, store.reader(stall_s), progress, parallel)
        copy.finish()
    return Outcome(wanted.size_bytes, sum(part.length for part in parts))


def begin(progress: Progress, wanted: Manifest, missing: list[Part]) -> None:
    """Start the progress of a copy, with what is there already."""
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
    parallel: int = MAX_CONNECTIONS,
    on_part: Callable[[Part], None] = lambda _: None,
) -> None:
    """Read parts into a copy from several threads, and report each. The first failure ends it; what was written stays."""
    waiting = iter(_interleaved(parts))  # a list's iterator: each thread takes the next part
    failures: list[BaseException] = []

    def work() -> None:
        buffer = np.empty(PIECE_BYTES, np.uint8)
        try:
            for part in waiting:
                if failures:
                    return
                _fetch_part(copy, part, reader, buffer, progress)
                progress.advance(part.file, part.length, moved=True)
                on_part(part)
        except BaseException as error:  # raised in the caller's thread
            failures.append(error)

    run_in_threads(work, parallel)
    if failures:
        raise failures[0]


def _interleaved(parts: list[Part]) -> list[Part]:
    """One part of each file, then the next of each: a file takes one write at a time, so threads keep to different ones."""
    of_file: dict[str, list[Part]] = {}
    for part in parts:
        of_file.setdefault(part.file, []).append(part)
    return [part for turn in zip_longest(*of_file.values()) for part in turn if part]


def _fetch_part(copy: LocalCopy, part: Part, reader: RangeReader, buffer: Buffer, progress: Progress) -> None:
    """Read a part into the copy, with retries where they may help; wrong bytes are read once more, as they may come right."""
    wrong = 0

    def attempt() -> None:
        nonlocal wrong
        try:
            copy.write(part, reader.pieces(part.file, part.start, part.length, buffer))
        except WrongBytesError as error:
            wrong += 1
            if wrong == 2:
                raise ContentError(f"{error}; stage the model again") from error
            raise

    with_retries(str(part), attempt, on_retry=progress.retried)


def without_source(directory: Path, url: str, error: OperationError) -> Outcome:
    """Accept a whole copy where the bucket cannot be read, which is enough to serve; without one, raise `error`."""
    try:
        existing = receipt.verify(directory)
    except ContentError:
        raise error from None
    if not existing.source.startswith(f"{url} "):
        raise error
    logger.warning(f"{error}; using the whole copy of {url} from {existing.created} in {directory}")
    return Outcome(sum(file.size_bytes for file in existing.files), 0)


def run_in_threads(work: Callable[[], None], max_threads: int = MAX_CONNECTIONS) -> None:
    """Run `work` in a few threads, and in twice as many, up to `max_threads`, while this process leaves half of its cores idle.

    A distant server wants many connections; with a near one, more threads only keep cores busy. Returns when the last thread
    has ended. `work` returns by itself when nothing is left, and raises nothing.
    """
    threads: list[threading.Thread] = []
    cores = len(os.sched_getaffinity(0))
    used_s = 0.0
    while not threads or any(thread.is_alive() for thread in threads):
        if used_s < _BUSY * cores * _STEP_S:
            threads += [_started(work) for _ in range(min(len(threads) or _FIRST_THREADS, max_threads - len(threads)))]
        before_s = time.process_time()
        _join(threads, _STEP_S)
        used_s = time.process_time() - before_s


def _started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def _join(threads: list[threading.Thread], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))

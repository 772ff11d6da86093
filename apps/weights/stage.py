"""Stage a model: copy it from the hub, or a directory, to a bucket, without a copy on this machine's disk.

Units of a file are copied in parallel and hashed in order. A unit stays under `.staging/` until its file is whole and has the
checksum that the source states; the manifest is written last. So a killed run leaves no model, and the next one continues with
the units that are there.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from json import dumps, loads
from typing import Any, TypeVar

from apps.common.errors import ContentError, UserError
from apps.common.settings import name_and_version
from apps.weights import manifest
from apps.weights.checksums import crc32c
from apps.weights.manifest import MANIFEST_NAME, PART_BYTES, Manifest, ManifestFile, part_ranges
from apps.weights.progress import Progress
from apps.weights.sources import Source, SourceFile, git_blob_id
from apps.weights.store import Store

_UNIT_PARTS = 2  # copied at once
_STAGING = ".staging"
Result = TypeVar("Result")


@dataclass
class _Running:
    """Checksums of a file of which some units have been copied."""

    file: SourceFile
    part_bytes: int
    sha256: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    crc32c: str = "00000000"
    parts: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)
    small: bytes | None = None

    def add(self, data: bytes, stored_as: str) -> None:
        self.sha256.update(data)
        self.crc32c = crc32c(data, self.crc32c)
        self.parts += [crc32c(data[start : start + length]) for start, length in part_ranges(len(data), self.part_bytes)]
        self.units.append(stored_as)
        self.small = data if len(data) == self.file.size_bytes else None

    def entry(self) -> ManifestFile:
        return ManifestFile(self.file.name, self.file.size_bytes, self.sha256.hexdigest(), self.crc32c, tuple(self.parts))


def stage(
    source: Source,
    store: Store,
    progress: Progress,
    *,
    parallel: int = 8,
    replace: bool = False,
    part_bytes: int = PART_BYTES,
) -> Manifest:
    """Copy the source's files to the store, and write the manifest once all are there and right.

    Args:
        parallel: units in flight; each takes up to four parts of memory.
        replace: overwrite another model or revision that the store holds.
        part_bytes: size of the parts that copies will be checked by.

    Raises:
        UserError: the store holds another model.
        ContentError: a file does not match the checksum that the source states; it is named, and nothing of it is kept.
        OperationError: the source or the store failed.
    """
    if there := store.manifest():
        if _is_of(there, source):
            right = _right_files(there, store)
            if len(right) == len(there.files):
                progress.report(f"{store.url} holds {source.name} at {source.revision} already, whole")
                store.remove(_STAGING)
                return there
            _note_as_staged(right, _folder(there.revision, there.part_bytes), store)
        elif not replace:
            raise UserError(
                f"{store.url} holds {there.source} at {there.revision}: give --replace to put {source.name} at "
                f"{source.revision} in its place, or another --to"
            )
        store.remove(MANIFEST_NAME)
    return _Stage(source, store, progress, part_bytes).run(parallel)


class _Stage:
    def __init__(self, source: Source, store: Store, progress: Progress, part_bytes: int) -> None:
        self._part_bytes = part_bytes
        self._source = source
        self._store = store
        self._progress = progress
        self._folder = _folder(source.revision, part_bytes)
        self._there = store.find(self._folder)
        self._units_there = {name.rpartition("-")[0]: name for name in self._there}

    def run(self, parallel: int) -> Manifest:
        done = {file.name: entry for file in self._source.files if (entry := self._finished(file))}
        self._progress.begin({file.name: file.size_bytes for file in self._source.files}, "staged")
        for name, entry in done.items():
            self._progress.advance(name, entry.size_bytes, moved=False)
        left = [file for file in self._source.files if file.name not in done]
        with ThreadPoolExecutor(parallel, thread_name_prefix="stage") as pool:
            try:
                for entry in self._stage(left, pool, parallel):
                    done[entry.name] = entry
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        source, files = self._source, tuple(done[file.name] for file in self._source.files)
        written = Manifest(
            source.name, source.revision, source.licence, manifest.now(), name_and_version(), self._part_bytes, files
        )
        self._store.write(MANIFEST_NAME, manifest.dumps(written).encode())
        self._store.remove(_STAGING)
        return written

    def _stage(self, files: list[SourceFile], pool: ThreadPoolExecutor, parallel: int) -> Iterator[ManifestFile]:
        units = [(file, start, length) for file in files for start, length in self._units(file)]
        moved = _in_order(pool, self._move, units, parallel)
        for file in files:
            running = _Running(file, self._part_bytes)
            for _ in self._units(file):
                running.add(*next(moved))
            yield self._finish(running)

    def _move(self, file: SourceFile, start: int, length: int) -> tuple[bytes, str]:
        """Copy a unit unless the store has it. Returns its bytes, and the name under which the store has them now."""
        place = f"{self._folder}/units/{file.name}/{start:015d}"
        there = self._units_there.get(place)
        data_there = self._store.read(there) if there else None
        if there and data_there is not None and len(data_there) == length and there == f"{place}-{crc32c(data_there)}":
            self._progress.advance(file.name, length, moved=False)
            return data_there, there
        data = self._source.read(file.name, start, length) if length else b""
        name = f"{place}-{crc32c(data)}"
        if length < file.size_bytes:
            self._store.write(name, data)
        self._progress.advance(file.name, length, moved=True)
        return data, name

    def _finish(self, running: _Running) -> ManifestFile:
        entry = running.entry()
        self._check(running, entry)
        if running.small is None:
            self._store.join(entry.name, running.units)
        else:
            self._store.write(entry.name, running.small)
        stored = self._store.stat(entry.name)
        if stored is None or not stored.is_of(entry):
            self._give_up(running)
            raise ContentError(f"{self._store.url}/{entry.name} does not match what was written to it ({stored}): start again")
        _note_as_staged([entry], self._folder, self._store)
        return entry

    def _check(self, running: _Running, entry: ManifestFile) -> None:
        file = running.file
        wrong = file.sha256 is not None and file.sha256 != entry.sha256
        if file.git_blob is not None and running.small is not None:
            wrong = git_blob_id(running.small) != file.git_blob
        if wrong:
            self._give_up(running)
            raise ContentError(
                f"{file.name} does not match the checksum that {self._source.name} states: nothing of it is kept; start again"
            )

    def _give_up(self, running: _Running) -> None:
        self._store.remove(f"{self._folder}/units/{running.file.name}")

    def _finished(self, file: SourceFile) -> ManifestFile | None:
        """Entry of a file that an earlier run has copied whole; None for any other."""
        record = _record(self._folder, file.name)
        if record not in self._there or not (text := self._store.read(record)):
            return None
        entry, stored = manifest.file_from(loads(text)), self._store.stat(file.name)
        whole = stored is not None and stored.is_of(entry) and entry.size_bytes == file.size_bytes
        return entry if whole and file.sha256 in (None, entry.sha256) else None

    def _units(self, file: SourceFile) -> list[tuple[int, int]]:
        return part_ranges(file.size_bytes, _UNIT_PARTS * self._part_bytes) or [(0, 0)]


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[..., Result], calls: Iterable[tuple[Any, ...]], ahead: int
) -> Iterator[Result]:
    """Results of calls with these arguments, in their order; at most `ahead` are begun before the first of them is taken."""
    running: deque[Future[Result]] = deque()
    for arguments in calls:
        running.append(pool.submit(function, *arguments))
        if len(running) == ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def _note_as_staged(files: list[ManifestFile], folder: str, store: Store) -> None:
    """Record for a later run that these files are in their place, whole and compared."""
    for file in files:
        store.write(_record(folder, file.name), dumps(asdict(file)).encode())


def _folder(revision: str, part_bytes: int) -> str:
    """Folder of a run. What a run of another revision, or with other parts, has left is of no use."""
    return f"{_STAGING}/{revision}-{part_bytes}"


def _record(folder: str, name: str) -> str:
    return f"{folder}/files/{name}.json"


def _is_of(there: Manifest, source: Source) -> bool:
    listed = {file.name: file.size_bytes for file in there.files}
    wanted = {file.name: file.size_bytes for file in source.files}
    return (there.source, there.revision) == (source.name, source.revision) and listed == wanted


def _right_files(there: Manifest, store: Store) -> list[ManifestFile]:
    """Files of the manifest that are in their place, judged by size and checksum."""
    stored = store.find()
    return [file for file in there.files if file.name in stored and stored[file.name].is_of(file)]

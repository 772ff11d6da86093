"""One host's part in a prefetch of a whole slice: read its share from the bucket, fetch the rest from the other hosts.

Runs as a Ray actor on the host. Parts travel through Ray's object store, a few at a time, so memory stays bounded however large
the model is. A host that sends nothing, or wrong bytes, is passed over: the bucket has the part too.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from apps.common.errors import BundleError, OperationError
from apps.weights.checksums import Buffer
from apps.weights.local_copy import LocalCopy, WrongBytesError
from apps.weights.manifest import Manifest, Part
from apps.weights.metrics import HostProgress
from apps.weights.prefetch import begin, fetch
from apps.weights.store import Store

CONNECTIONS = 16  # to the bucket, at most: the other hosts of the slice read from it too
MAX_UPLOADS = (
    8  # parts that a host serves at once; each waits a share of the stall time, so the next in line does not seem silent
)


@ray.remote(num_cpus=0, max_restarts=0, concurrency_groups={"serve": MAX_UPLOADS, "progress": 1})
class PrefetchActor:
    """Makes a copy of the model on one host's disk. `window` is how many parts it requests from other hosts at once."""

    def __init__(self, host: str, url: str, directory: str, wanted: Manifest, *, stall_s: float, window: int) -> None:
        self._store = Store(url)
        self._copy = LocalCopy(wanted, url, Path(directory))
        self._parts = self._copy.manifest.parts()
        self._stall_s, self._window = stall_s, window
        self._host = host
        self._progress = HostProgress(host)
        self._there = threading.Condition()
        self._have: set[int] = set()
        self._failed: BundleError | None = None
        self._read = Counter[str]()
        """Bytes by their origin."""

    def __repr__(self) -> str:
        return f"weights of {self._host}"  # what the Ray dashboard shows

    def open(self) -> list[int]:
        """Lock the directory. Returns the indices of the missing parts; none where the copy is whole."""
        self._copy.__enter__()  # for as long as the actor lives
        started = time.monotonic()
        if self._copy.is_whole():
            missing = set[int]()
        else:
            index_of = {part: index for index, part in enumerate(self._parts)}
            missing = {index_of[part] for part in self._copy.missing()}
        self._progress.verified(time.monotonic() - started)
        self._have = set(range(len(self._parts))) - missing
        begin(self._progress, self._copy.manifest, [self._parts[index] for index in sorted(missing)])
        return sorted(missing)

    def run(self, owners: list[int], own_id: int, peers: dict[int, Any]) -> Counter[str]:
        """Make the copy whole. Returns the bytes that came from the bucket and from other hosts.

        Raises:
            ContentError: a part does not match the manifest.
            OperationError: the bucket could not be read, or the disk not written.
        """
        wanted = [index for index in range(len(self._parts)) if index not in self._have]
        own = [index for index in wanted if owners[index] == own_id]
        others = [index for index in wanted if owners[index] != own_id]
        peers_thread = threading.Thread(target=self._guarded, args=(self._fetch_from_peers, others, owners, peers), daemon=True)
        peers_thread.start()
        self._guarded(self._fetch, own)
        peers_thread.join()
        if self._failed:
            raise self._failed
        if wanted or not self._copy.is_whole():
            self._copy.finish()
        return self._read

    @ray.method(concurrency_group="serve")
    def serve_part(self, index: int) -> Buffer | None:
        """A part for another host; None while it is still on its way here, however slowly: ask again."""
        with self._there:
            self._there.wait_for(lambda: index in self._have or self._failed, self._stall_s / MAX_UPLOADS)
            if self._failed:
                raise OperationError(f"{self._parts[index]} cannot be served: {self._failed}")
            if index not in self._have:
                return None
        return self._copy.read(self._parts[index])

    @ray.method(concurrency_group="progress")
    def progress(self) -> tuple[int, int]:
        """Bytes that are here, and bytes in total."""
        return self._progress.done_bytes, self._progress.total_bytes

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except Exception as error:
            ours = error if isinstance(error, BundleError) else OperationError(f"{type(error).__name__}: {error}")
            with self._there:
                self._failed = self._failed or ours
                self._there.notify_all()

    def _fetch(self, indices: list[int]) -> None:
        index_of = {self._parts[index]: index for index in indices}

        def mark(part: Part) -> None:
            self._mark(index_of[part], "bucket")

        fetch(self._copy, list(index_of), self._store.reader(self._stall_s), self._progress, CONNECTIONS, mark)

    def _fetch_from_peers(self, indices: list[int], owners: list[int], peers: dict[int, Any]) -> None:
        waiting, in_flight = deque(indices), dict[Any, tuple[int, float]]()
        while (waiting or in_flight) and not self._failed:
            while waiting and len(in_flight) < self._window:
                index = waiting.popleft()
                in_flight[peers[owners[index]].serve_part.remote(index)] = (index, time.monotonic() + 2 * self._stall_s)
            ready, _ = ray.wait(list(in_flight), timeout=1)
            silent = [reference for reference, (_, deadline) in in_flight.items() if time.monotonic() > deadline]
            for reference in {*ready, *silent}:
                index, _ = in_flight.pop(reference)
                if not self._accept(reference, index):
                    waiting.appendleft(index)

    def _accept(self, reference: Any, index: int) -> bool:
        """Write a part that a host has sent; False where it must be requested again."""
        part = self._parts[index]
        try:
            data = ray.get(reference, timeout=0)
            if data is None:
                return False
            self._copy.write(part, [data])
        except (ray.exceptions.RayError, WrongBytesError):  # its host has failed, is silent or gone, or sent wrong bytes
            self._fetch([index])
        else:
            self._progress.advance(part.file, part.length, moved=True)
            self._mark(index, "hosts")
        return True

    def _mark(self, index: int, source: str) -> None:
        self._progress.read(self._parts[index].length, source)
        with self._there:
            self._read[source] += self._parts[index].length
            self._have.add(index)
            self._there.notify_all()

"""Prefetch to a whole slice: an actor on each host, the share that each reads, and the outcome.

Modes: `slice-once` reads every byte once from the bucket and shares it between the hosts; `per-host` lets each host read all of
it; `stream` leaves the reading to vLLM (load_format runai_streamer) and only compares the bucket with its manifest.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from apps.common.errors import BundleError, OperationError, UserError
from apps.weights import receipt
from apps.weights.args import MODES
from apps.weights.manifest import Manifest
from apps.weights.prefetch import without_source
from apps.weights.prefetch_actor import PrefetchActor
from apps.weights.progress import Progress, gib
from apps.weights.retry import STALL_S
from apps.weights.store import Store, whole_manifest
from apps.weights.verify import verify_url

_POLL_S = 1.0
_MAX_IN_FLIGHT = 8


@dataclass(frozen=True)
class Place:
    """Destination on a host: its name (`slice-a/2`), its Ray node id, and the directory there."""

    host: str
    node_id: str
    directory: str


@dataclass(frozen=True)
class SliceOutcome:
    """Bytes of the model, bytes read from the bucket and bytes exchanged, over all hosts, and the seconds it took."""

    size_bytes: int
    bucket_bytes: int
    exchanged_bytes: int
    seconds: float

    def __str__(self) -> str:
        read = f"{gib(self.bucket_bytes)} read from the bucket, {gib(self.exchanged_bytes)} exchanged"
        return f"{gib(self.size_bytes)} on every host after {self.seconds:.1f} s: {read}"


def prefetch_on_hosts(
    url: str, places: Sequence[Place], mode: str, progress: Progress, *, stall_s: float = STALL_S
) -> SliceOutcome:
    """Make every place a whole copy of the model at `url`, and show its progress. Needs a Ray connection.

    Raises:
        UserError: no such mode, or a host's disk has too little room.
        ContentError: the model does not match its manifest.
        OperationError: a host, the bucket or a disk failed.
    """
    if mode not in MODES:
        raise UserError(f"mode {mode!r}: give one of {', '.join(MODES)}")
    started = time.monotonic()
    size_bytes, read = _prefetch(url, places, mode, progress, stall_s)
    return SliceOutcome(size_bytes, read["bucket"], read["hosts"], time.monotonic() - started)


def _prefetch(url: str, places: Sequence[Place], mode: str, progress: Progress, stall_s: float) -> tuple[int, Counter[str]]:
    """Bytes of the model, and the bytes that the hosts have read, by their origin."""
    if mode == "stream":
        return verify_url(url, Progress(), deep=False).size_bytes, Counter()
    try:
        wanted = whole_manifest(Store(url))
    except OperationError as error:
        checked = _on_hosts(without_source, places, url, error)
        return checked[0].size_bytes, Counter()
    if all(_on_hosts(receipt.is_whole, places, wanted.digest)):
        return wanted.size_bytes, Counter()
    window = _window(places, wanted.part_bytes)
    fetchers = {place.host: _start(place, url, wanted, stall_s, window) for place in places}
    try:
        return wanted.size_bytes, sum(_run(fetchers, wanted, mode, progress), Counter())
    finally:
        for fetcher in fetchers.values():
            ray.kill(fetcher)


def _run(fetchers: dict[str, Any], wanted: Manifest, mode: str, progress: Progress) -> list[Counter[str]]:
    actors = list(fetchers.values())
    missing = dict(enumerate(set(parts) for parts in _get([actor.open.remote() for actor in actors])))
    sizes = [part.length for part in wanted.parts()]
    shared = owners(sizes, missing) if mode == "slice-once" else []
    peers = dict(enumerate(actors))
    running = [actor.run.remote(shared or [own_id] * len(sizes), own_id, peers) for own_id, actor in peers.items()]
    while True:
        ended, left = ray.wait(running, num_returns=len(running), timeout=_POLL_S)
        read = _get(ended)  # the first failure ends it; the others' parts stay on their disks
        if not left:
            return list(read)
        here = _get([actor.progress.remote() for actor in actors])
        progress.hosts(dict(zip(fetchers, here, strict=True)))


def _start(place: Place, url: str, wanted: Manifest, stall_s: float, window: int) -> Any:
    actor = PrefetchActor.options(scheduling_strategy=_on(place))  # type: ignore[attr-defined]
    return actor.remote(place.host, url, place.directory, wanted, stall_s=stall_s, window=window)


def _window(places: Sequence[Place], part_bytes: int) -> int:
    """Parts that a host may ask for at once, so that half of the smallest object store holds what all hosts request of it."""
    used = {place.node_id for place in places}
    stores = [node["Resources"].get("object_store_memory", 0) for node in ray.nodes() if node["NodeID"] in used]
    return max(1, min(_MAX_IN_FLIGHT, int(min(stores, default=0) // (2 * len(places) * part_bytes))))


def _get(references: list[Any]) -> Any:
    """Results of actors. Raises the error that an actor raised, as it was."""
    try:
        return ray.get(references)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, BundleError):
            raise error.cause from error
        raise OperationError(f"weights: {error}") from error
    except ray.exceptions.RayError as error:
        raise OperationError(f"weights: a host failed while it fetched them ({error})") from error


def _on_hosts(function: Callable[..., Any], places: Sequence[Place], *arguments: Any) -> list[Any]:
    """Call the function with each place's directory in a task on its host, which is lighter than an actor."""
    task = ray.remote(num_cpus=0)(function)
    calls = [task.options(scheduling_strategy=_on(place)).remote(Path(place.directory), *arguments) for place in places]
    return list(_get(calls))


def _on(place: Place) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(place.node_id, soft=False)


def owners(sizes: list[int], missing: Mapping[int, Set[int]]) -> list[int]:
    """The owner of each part: the host that serves it to those without it.

    A host that has a part already is its owner, so that nobody reads it from the bucket; else it is a host that will. Among
    the candidates it is the one with the fewest bytes so far: each host reads about as much as the others, and serves as much.

    Args:
        sizes: bytes of each part.
        missing: indices of the parts that each host lacks, by worker id.
    """
    served = dict.fromkeys(sorted(missing), 0)
    read = dict.fromkeys(sorted(missing), 0)
    result = []
    for index, size in enumerate(sizes):
        having = [host for host in served if index not in missing[host]]
        burden = served if having else read
        owner = min(having or burden, key=lambda host: (burden[host], host))
        if len(having) < len(served):
            burden[owner] += size
        result.append(owner)
    return result

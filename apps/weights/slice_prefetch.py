"""A prefetch of a whole slice: an actor on each host, who reads what, and what came of it.

Modes: `slice-once` reads every byte once from the bucket and shares it between the hosts; `per-host` lets each host read all of
it; `stream` leaves the reading to vLLM (load_format runai_streamer) and only compares the bucket with its manifest.
"""

import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from apps.common.errors import BundleError, OperationError, UserError
from apps.weights import manifest, receipt
from apps.weights.args import MODES
from apps.weights.prefetch import without_source
from apps.weights.prefetch_actor import PrefetchActor
from apps.weights.progress import Progress, Watcher, gib
from apps.weights.retry import STALL_S
from apps.weights.store import Store, whole_manifest
from apps.weights.verify import verify_url

_POLL_S = 1.0
_MOST_IN_FLIGHT = 8


@dataclass(frozen=True)
class Place:
    """A host by its name (`slice-a/2`), its Ray node, and the directory there."""

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
    url: str, places: Sequence[Place], mode: str, watcher: Watcher, *, stall_s: float = STALL_S
) -> SliceOutcome:
    """Make every place a whole copy of the model at `url`, and tell the watcher. Needs a Ray connection.

    Raises:
        UserError: no such mode, or a host's disk has no room.
        ContentError: the model is not what its manifest says.
        OperationError: a host, the bucket or a disk failed.
    """
    if mode not in MODES:
        raise UserError(f"mode {mode!r}: give one of {', '.join(MODES)}")
    started = time.monotonic()
    if mode == "stream":
        compared = verify_url(url, Progress(), deep=False)
        return SliceOutcome(compared.size_bytes, 0, 0, time.monotonic() - started)
    try:
        wanted = whole_manifest(Store(url))
    except OperationError as error:
        return _without_source(url, places, error, started)
    if all(_on_hosts(receipt.is_copy_of, places, lambda place: (Path(place.directory), wanted.digest))):
        return SliceOutcome(wanted.size_bytes, 0, 0, time.monotonic() - started)
    window = _window(places, wanted.part_bytes)
    fetchers = {place.host: _start(place, url, wanted, stall_s, window) for place in places}
    try:
        read = _run(fetchers, wanted, mode, watcher)
    finally:
        for fetcher in fetchers.values():
            ray.kill(fetcher)
    totals = [sum(one[key] for one in read) for key in ("bucket", "hosts")]
    return SliceOutcome(wanted.size_bytes, totals[0], totals[1], time.monotonic() - started)


def _run(fetchers: dict[str, Any], wanted: manifest.Manifest, mode: str, watcher: Watcher) -> list[dict[str, int]]:
    actors = list(fetchers.values())
    missing = dict(enumerate(set(one) for one in _get([actor.open.remote() for actor in actors])))
    sizes = [part.length for part in wanted.parts()]
    shared = owners(sizes, missing) if mode == "slice-once" else []
    peers = dict(enumerate(actors))
    running = [actor.run.remote(shared or [me] * len(sizes), me, peers) for me, actor in peers.items()]
    while True:
        ended, left = ray.wait(running, num_returns=len(running), timeout=_POLL_S)
        read = _get(ended)  # the first failure ends it; the others' parts stay on their disks
        if not left:
            return list(read)
        here = _get([actor.progress.remote() for actor in actors])
        watcher.hosts(dict(zip(fetchers, here, strict=True)))


def _start(place: Place, url: str, wanted: manifest.Manifest, stall_s: float, window: int) -> Any:
    on_host = NodeAffinitySchedulingStrategy(place.node_id, soft=False)
    actor = PrefetchActor.options(scheduling_strategy=on_host)  # type: ignore[attr-defined]
    return actor.remote(place.host, url, place.directory, manifest.dumps(wanted), stall_s=stall_s, window=window)


def _window(places: Sequence[Place], part_bytes: int) -> int:
    """Parts that a host may ask for at once, so that half of the smallest object store holds what all hosts ask of it."""
    used = {place.node_id for place in places}
    stores = [node["Resources"].get("object_store_memory", 0) for node in ray.nodes() if node["NodeID"] in used]
    return max(1, min(_MOST_IN_FLIGHT, int(min(stores, default=0) // (2 * len(places) * part_bytes))))


def _get(references: list[Any]) -> Any:
    """Results of actors; of a failure the error that the actor raised, as it was."""
    try:
        return ray.get(references)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, BundleError):
            raise error.cause from error
        raise OperationError(f"weights: {error}") from error
    except ray.exceptions.RayError as error:
        raise OperationError(f"weights: a host failed while it fetched them ({error})") from error


def _without_source(url: str, places: Sequence[Place], error: OperationError, started: float) -> SliceOutcome:
    checked = _on_hosts(without_source, places, lambda place: (url, Path(place.directory), error))
    return SliceOutcome(checked[0].size_bytes, 0, 0, time.monotonic() - started)


def _on_hosts(
    function: Callable[..., Any], places: Sequence[Place], arguments: Callable[[Place], tuple[Any, ...]]
) -> list[Any]:
    """The function's results, called in a task on each place's host: lighter than an actor."""
    task = ray.remote(num_cpus=0)(function)
    strategies = [NodeAffinitySchedulingStrategy(place.node_id, soft=False) for place in places]
    return list(
        _get(
            [
                task.options(scheduling_strategy=strategy).remote(*arguments(place))
                for place, strategy in zip(places, strategies, strict=True)
            ]
        )
    )


def owners(sizes: list[int], missing: Mapping[int, Set[int]]) -> list[int]:
    """For each part the host that gives it to those without it.

    A host that has a part already is its owner, so that the bucket is not asked for it; else one that will read it. Of those
    that could be, it is the one with the fewest bytes so far: each host reads about the same, and gives about the same.

    Args:
        sizes: bytes of each part.
        missing: indices of the parts that each host lacks, by worker id.
    """
    given = dict.fromkeys(sorted(missing), 0)
    read = dict.fromkeys(sorted(missing), 0)
    found = []
    for index, size in enumerate(sizes):
        having = [host for host in given if index not in missing[host]]
        burden = given if having else read
        owner = min(having or burden, key=lambda host: (burden[host], host))
        if len(having) < len(given):
            burden[owner] += size
        found.append(owner)
    return found

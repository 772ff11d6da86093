"""Four hosts of a slice, as Ray nodes on this machine, that fetch a model from one bucket to four disks."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from apps.common.errors import ContentError, OperationError, UserError
from apps.weights import receipt, slice_prefetch
from apps.weights.prefetch_actor import CONNECTIONS
from apps.weights.progress import LogProgress
from apps.weights.slice_prefetch import Place, owners, prefetch_on_hosts
from tests.perf.weights.server import Meter
from tests.weights.bucket import Bucket, running_bucket
from tests.weights.test_prefetch import PART_BYTES, contents, staged

URL = "gs://models/gemma"
HOSTS = 4
MIB = 1024**2


@pytest.fixture(scope="module")
def slice_bucket() -> Iterator[Bucket]:
    with running_bucket() as bucket, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", bucket.endpoint)
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
        yield bucket


@pytest.fixture(scope="module")
def nodes(slice_bucket: Bucket) -> Iterator[list[str]]:
    cluster = Cluster()
    for _ in range(HOSTS):
        cluster.add_node(num_cpus=1, object_store_memory=80 * MIB, include_dashboard=False)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield [node["NodeID"] for node in ray.nodes()]
    finally:
        ray.shutdown()
        cluster.shutdown()
        assert slice_bucket.faults == []


@pytest.fixture
def files(slice_bucket: Bucket, tmp_path: Path) -> dict[str, bytes]:
    model = staged(URL, tmp_path / "source", seed=len(slice_bucket.objects()))
    slice_bucket.downloaded.clear()
    return model


def places(nodes: list[str], root: Path) -> list[Place]:
    return [Place(f"slice-a/{number}", node, str(root / f"host-{number}")) for number, node in enumerate(nodes)]


def read_of(bucket: Bucket) -> int:
    return sum(count for name, count in dict(bucket.downloaded).items() if not name.endswith("manifest.json"))


@pytest.mark.parametrize(("mode", "times"), [("slice-once", 1), ("per-host", HOSTS)])
def test_every_host_is_whole(
    nodes: list[str], slice_bucket: Bucket, files: dict[str, bytes], tmp_path: Path, mode: str, times: int
) -> None:
    size = sum(map(len, files.values()))
    outcome = prefetch_on_hosts(URL, places(nodes, tmp_path), mode, LogProgress(print))
    for place in places(nodes, tmp_path):
        assert contents(Path(place.directory), files) == files
        receipt.verify(Path(place.directory), deep=True)
    assert read_of(slice_bucket) == outcome.bucket_bytes == times * size
    assert outcome.exchanged_bytes == (HOSTS - times) * size
    again = prefetch_on_hosts(URL, places(nodes, tmp_path), mode, LogProgress(print))
    assert (again.bucket_bytes, again.exchanged_bytes) == (0, 0)


def test_a_new_host_gets_all_from_the_others(
    nodes: list[str], slice_bucket: Bucket, files: dict[str, bytes], tmp_path: Path
) -> None:
    prefetch_on_hosts(URL, places(nodes, tmp_path)[:3], "slice-once", LogProgress(print))
    slice_bucket.downloaded.clear()
    outcome = prefetch_on_hosts(URL, places(nodes, tmp_path), "slice-once", LogProgress(print))
    assert read_of(slice_bucket) == 0
    assert outcome.exchanged_bytes == sum(map(len, files.values()))
    assert contents(tmp_path / "host-3", files) == files


def test_a_killed_host_goes_on_where_it_was(
    nodes: list[str], slice_bucket: Bucket, files: dict[str, bytes], tmp_path: Path
) -> None:
    size = sum(map(len, files.values()))
    slice_bucket.meter = Meter(size / 2)
    victim = prefetch_in_background(nodes, tmp_path)
    victim.wait_until_read(slice_bucket, size // 4)
    victim.kill()
    slice_bucket.meter = Meter(None)
    with pytest.raises(OperationError, match="a host failed"):
        victim.result()
    prefetch_on_hosts(URL, places(nodes, tmp_path), "slice-once", LogProgress(print))
    for place in places(nodes, tmp_path):
        assert contents(Path(place.directory), files) == files
    assert read_of(slice_bucket) <= size + HOSTS * CONNECTIONS * PART_BYTES  # what was in flight


class prefetch_in_background:  # noqa: N801 - reads as a call
    """A prefetch in a thread of its own, of which one host's process will be killed."""

    def __init__(self, nodes: list[str], root: Path) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._future = ThreadPoolExecutor(1).submit(
            prefetch_on_hosts, URL, places(nodes, root), "slice-once", LogProgress(print)
        )

    def wait_until_read(self, bucket: Bucket, size_bytes: int) -> None:
        while read_of(bucket) < size_bytes:
            assert not self._future.done(), self._future.exception()
            time.sleep(0.02)

    def kill(self) -> None:
        titles = {process: " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])}
        actors = [process for process, title in titles.items() if title.startswith("ray::PrefetchActor")]
        children = [process for process in actors if os.getpid() in {parent.pid for parent in process.parents()}]
        assert children
        children[0].kill()

    def result(self) -> None:
        self._future.result(60)


@pytest.mark.full
def test_a_slow_bucket_is_still_read_once(nodes: list[str], slice_bucket: Bucket, tmp_path: Path) -> None:
    files = staged(URL, tmp_path / "source", seed=77, part_bytes=256 * 1024)
    slice_bucket.downloaded.clear()
    slice_bucket.meter = Meter(256 * 1024)  # a part takes a host 4 s, a byte of it never 2
    try:
        outcome = prefetch_on_hosts(URL, places(nodes, tmp_path), "slice-once", LogProgress(print), stall_s=2)
    finally:
        slice_bucket.meter = Meter(None)
    assert read_of(slice_bucket) == outcome.bucket_bytes == sum(map(len, files.values()))
    assert contents(tmp_path / "host-3", files) == files


def test_a_flipped_bit_is_refused_on_every_host(
    nodes: list[str], slice_bucket: Bucket, files: dict[str, bytes], tmp_path: Path
) -> None:
    name = "model-00002-of-00002.safetensors"
    slice_bucket.flip_a_bit(f"gemma/{name}", len(files[name]) // 2)
    with pytest.raises(ContentError, match=f"{name} bytes .* does not match the manifest"):
        prefetch_on_hosts(URL, places(nodes, tmp_path), "slice-once", LogProgress(print))
    for place in places(nodes, tmp_path):
        with pytest.raises(ContentError):
            receipt.verify(Path(place.directory))


def test_whole_hosts_serve_without_the_bucket(
    nodes: list[str], files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(_: object) -> None:
        raise OperationError("no network")

    prefetch_on_hosts(URL, places(nodes, tmp_path)[:3], "slice-once", LogProgress(print))
    monkeypatch.setattr(slice_prefetch, "whole_manifest", unreachable)
    outcome = prefetch_on_hosts(URL, places(nodes, tmp_path)[:3], "slice-once", LogProgress(print))
    assert (outcome.size_bytes, outcome.bucket_bytes) == (sum(map(len, files.values())), 0)
    with pytest.raises(OperationError, match="no network"):
        prefetch_on_hosts(URL, places(nodes, tmp_path), "slice-once", LogProgress(print))


def test_an_unknown_mode_is_refused(nodes: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give one of slice-once, per-host, stream"):
        prefetch_on_hosts(URL, places(nodes, tmp_path), "twice", LogProgress(print))


def test_owners_share_evenly_and_never_read_what_a_host_has() -> None:
    sizes = [10] * 8
    assert owners(sizes, {host: set(range(8)) for host in range(4)}) == [0, 1, 2, 3, 0, 1, 2, 3]
    result = owners(sizes, {0: set(range(8)), 1: set(range(4)), 2: {0}, 3: set(range(8))})
    assert result[4:] == [1, 1, 1, 1]
    assert result[1:4] == [2, 2, 2]

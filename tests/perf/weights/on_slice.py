"""Four emulated hosts, one bucket of limited bandwidth: `slice-once` against `per-host`, on Ray nodes of this machine."""

import os
import shutil
import tempfile
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from apps.weights.progress import LogProgress
from apps.weights.slice_prefetch import Place, prefetch_on_hosts
from tests.perf.weights.model import make_source
from tests.perf.weights.server import BUCKET, Limit, serving

HOSTS = 4
BYTES_PER_S = 50e6
"""Bandwidth of the bucket for all hosts together: low enough for two cores, which emulate four hosts, to exchange it all."""
_OBJECT_STORE_BYTES = 256 * 1024**2


def compare_modes(directory: Path, gb: int) -> dict[str, float]:
    """Seconds until all hosts are whole, by mode."""
    seconds = {}
    with tempfile.TemporaryDirectory(dir=directory, prefix="weights-") as scratch:
        make_source(Path(scratch) / "source", gb)
        with serving(Path(scratch) / "source", Limit(all_connections=BYTES_PER_S)) as address:
            os.environ |= {"STORAGE_EMULATOR_HOST": address, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
            cluster = Cluster()
            try:
                for _ in range(HOSTS):
                    cluster.add_node(num_cpus=1, object_store_memory=_OBJECT_STORE_BYTES, include_dashboard=False)
                ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
                nodes = [node["NodeID"] for node in ray.nodes()]
                for mode in ("slice-once", "per-host"):
                    seconds[mode] = _prefetch(mode, nodes, Path(scratch) / mode)
            finally:
                ray.shutdown()
                cluster.shutdown()
    return seconds


def _prefetch(mode: str, nodes: list[str], root: Path) -> float:
    places = [Place(f"slice-a/{number}", node, str(root / str(number))) for number, node in enumerate(nodes)]
    start = time.monotonic()
    prefetch_on_hosts(f"gs://{BUCKET}", places, mode, LogProgress(print))
    seconds = time.monotonic() - start
    shutil.rmtree(root)
    return seconds

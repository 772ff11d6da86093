"""Prefetch ahead of time to every slice of a Ray cluster, so that a replica finds its weights there when it starts."""

import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import ray

from apps.common.errors import OperationError, UserError
from apps.slice.hosts import SLICE_NAME
from apps.weights.for_replica import places
from apps.weights.progress import watcher_for_stream
from apps.weights.slice_prefetch import SliceOutcome, prefetch_on_hosts


def prefetch_all_slices(url: str, directory: str, mode: str, stall_s: float) -> dict[str, SliceOutcome]:
    """The outcome by slice name. Connects to the cluster that Ray finds (RAY_ADDRESS, or the job that this runs in).

    Raises:
        UserError: there is no cluster, or it has no TPU hosts.
        ContentError, OperationError: as `prefetch_on_hosts`, of the first slice that failed; the others are finished first.
    """
    try:
        ray.init(address="auto", log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
    except ConnectionError as error:
        raise UserError(
            "no Ray cluster is here: give RAY_ADDRESS, or run it as `ray job submit -- python -m apps.weights prefetch ...`"
        ) from error
    slices: dict[str, list[str]] = defaultdict(list)
    for node in ray.nodes():
        if node["Alive"] and SLICE_NAME in node["Labels"]:
            slices[node["Labels"][SLICE_NAME]].append(node["NodeID"])
    if not slices:
        raise UserError("the Ray cluster has no TPU hosts now: is the slice up, and do its nodes have the TPU labels?")
    with watcher_for_stream() as watcher, ThreadPoolExecutor(len(slices)) as pool:
        running = {
            name: pool.submit(prefetch_on_hosts, url, places(nodes, directory), mode, watcher, stall_s=stall_s)
            for name, nodes in sorted(slices.items())
        }
    failed = {name: problem for name, future in running.items() if (problem := future.exception())}
    for name, problem in failed.items():
        print(f"{name}: {problem}", file=sys.stderr)
    if failed:
        first = next(iter(failed.values()))
        raise first if len(failed) == 1 else OperationError(f"{len(failed)} of {len(slices)} slices failed: {first}")
    return {name: future.result() for name, future in running.items()}

"""Prefetch ahead of time to every slice of a Ray cluster, so that a replica finds its weights there when it starts."""

import contextlib
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, wait

import ray

from apps.errors import OperationError, UserError
from apps.slice.hosts import SLICE_NAME
from apps.weights.for_replica import places
from apps.weights.progress import HostBars
from apps.weights.slice_prefetch import LogWatcher, SliceOutcome, prefetch_on_hosts


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
    watcher = HostBars() if sys.stderr.isatty() else LogWatcher(_say)
    with ThreadPoolExecutor(len(slices)) as pool, contextlib.ExitStack() as stack:
        if isinstance(watcher, HostBars):
            stack.callback(watcher.stop)
        running = {
            name: pool.submit(prefetch_on_hosts, url, places(nodes, directory), mode, watcher, stall_s=stall_s)
            for name, nodes in sorted(slices.items())
        }
        wait(running.values())
    failed = {name: problem for name, future in running.items() if (problem := future.exception())}
    for name, problem in failed.items():
        _say(f"{name}: {problem}")
    if failed:
        first = next(iter(failed.values()))
        raise first if len(failed) == 1 else OperationError(f"{len(failed)} of {len(slices)} slices failed: {first}")
    return {name: future.result() for name, future in running.items()}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

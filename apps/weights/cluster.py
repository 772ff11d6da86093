"""Weights inside a Ray cluster: on all hosts of a replica's slice before its engine starts, or ahead of time on all slices."""

import asyncio
import logging
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray

from apps.common.errors import ContentError, OperationError, UserError
from apps.common.settings import weights_url
from apps.slice.hosts import SLICE_NAME, host_name
from apps.weights.args import HOST, PrefetchArgs, directory_on
from apps.weights.metrics import count_refusal
from apps.weights.progress import LogWatcher, watcher_for_stream
from apps.weights.slice_prefetch import Place, SliceOutcome, prefetch_on_hosts

logger = logging.getLogger("ray.serve")


async def prefetch_for_replica(args: PrefetchArgs, source: str, node_ids: Sequence[str]) -> None:
    """Prefetch to `args.to`, or else `source`, on every node; in mode `stream` only compare the bucket with its manifest.

    Raises:
        UserError: no URL is given, or a disk has no room.
        ContentError: the model is not what its manifest says.
        OperationError: a host, the bucket or a disk failed.
    """
    url = url_of(args)
    places_there = places(node_ids, args.to or source)
    watcher = LogWatcher(logger.info)
    try:
        outcome = await asyncio.to_thread(prefetch_on_hosts, url, places_there, args.mode, watcher, stall_s=args.stall_s)
    except ContentError:
        count_refusal()
        raise
    logger.info(f"weights of {url}: {outcome}")


def url_of(args: PrefetchArgs) -> str:
    """Where the model is staged. Raises `UserError` where nothing says so."""
    url = args.url or weights_url()
    if url is None:
        raise UserError(
            "where are the weights? Give callback_config.callback_kwargs.url (gs://BUCKET/MODEL), or start Ray's hosts with "
            "WEIGHTS_URL; `python -m apps.weights stage` brings them there"
        )
    return url


def own_host() -> str:
    """The name of the host that this process is on."""
    return _names()[ray.get_runtime_context().get_node_id()]


def places(node_ids: Sequence[str], source: str) -> list[Place]:
    """The directory of each node, in the order of the nodes."""
    names = _names()
    return [Place(names[node_id], node_id, directory_on(names[node_id], source)) for node_id in dict.fromkeys(node_ids)]


def on_this_host(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the directory of the weights as it is called here; what it is elsewhere goes to the prefetch."""
    loading, callback = config["model_loading_config"], config["callback_config"]
    source = loading.get("model_source")
    if not isinstance(source, str) or HOST not in source:
        return config
    own = directory_on(own_host(), source)
    elsewhere = {"to": source, **(callback.get("callback_kwargs") or {})}
    return {
        **config,
        "model_loading_config": {**loading, "model_source": own},
        "callback_config": {**callback, "callback_kwargs": elsewhere},
    }


def _names() -> dict[str, str]:
    return {node["NodeID"]: host_name(node) for node in ray.nodes()}


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

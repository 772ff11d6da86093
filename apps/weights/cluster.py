"""Prefetch weights in a Ray cluster: to all hosts of a replica's slice before its engine starts, or to all slices."""

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
from apps.weights.metrics import REFUSED
from apps.weights.progress import LogProgress, for_stream
from apps.weights.slice_prefetch import Place, SliceOutcome, prefetch_on_hosts

logger = logging.getLogger("ray.serve")


async def prefetch_for_replica(args: PrefetchArgs, source: str, node_ids: Sequence[str]) -> None:
    """Prefetch to `args.to`, or else `source`, on every node; in mode `stream` only compare the bucket with its manifest.

    Raises as `url_of` and `prefetch_on_hosts`.
    """
    url = url_of(args)
    destinations = places(node_ids, args.to or source)
    shown = LogProgress(logger.info)
    try:
        outcome = await asyncio.to_thread(prefetch_on_hosts, url, destinations, args.mode, shown, stall_s=args.stall_s)
    except ContentError:
        REFUSED.inc()
        raise
    logger.info(f"weights of {url}: {outcome}")


def url_of(args: PrefetchArgs) -> str:
    """URL of the staged model. Raises `UserError` where none is given."""
    url = args.url or weights_url()
    if url is None:
        raise UserError(
            "the weights have no URL: set callback_config.callback_kwargs.url (gs://BUCKET/MODEL), or start Ray's hosts with "
            "WEIGHTS_URL; `python -m apps.weights stage` copies the weights there"
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
    """The config with this host's directory of the weights; the pattern for all hosts goes to the prefetch."""
    loading, callback = config["model_loading_config"], config["callback_config"]
    source = loading.get("model_source")
    if not isinstance(source, str) or HOST not in source:
        return config
    own = directory_on(own_host(), source)
    on_all_hosts = {"to": source, **(callback.get("callback_kwargs") or {})}
    return {
        **config,
        "model_loading_config": {**loading, "model_source": own},
        "callback_config": {**callback, "callback_kwargs": on_all_hosts},
    }


def _names() -> dict[str, str]:
    return {node["NodeID"]: host_name(node) for node in ray.nodes()}


def prefetch_all_slices(url: str, directory: str, mode: str, stall_s: float) -> dict[str, SliceOutcome]:
    """Prefetch to every slice of the cluster that Ray finds (RAY_ADDRESS, or the job that this runs in); the outcome by slice.

    Raises:
        UserError: there is no cluster, or it has no TPU hosts.
        ContentError, OperationError: as `prefetch_on_hosts`, for the first slice that failed, after the others have finished.
    """
    try:
        ray.init(address="auto", log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
    except ConnectionError as error:
        raise UserError(
            "no Ray cluster here: set RAY_ADDRESS, or run this as `ray job submit -- python -m apps.weights prefetch ...`"
        ) from error
    slices: dict[str, list[str]] = defaultdict(list)
    for node in ray.nodes():
        if node["Alive"] and SLICE_NAME in node["Labels"]:
            slices[node["Labels"][SLICE_NAME]].append(node["NodeID"])
    if not slices:
        raise UserError("the Ray cluster has no TPU hosts now: is the slice up, and do its nodes have the TPU labels?")
    with for_stream() as shown, ThreadPoolExecutor(len(slices)) as pool:
        running = {
            name: pool.submit(prefetch_on_hosts, url, places(nodes, directory), mode, shown, stall_s=stall_s)
            for name, nodes in sorted(slices.items())
        }
    failed = {name: problem for name, future in running.items() if (problem := future.exception())}
    for name, problem in failed.items():
        print(f"{name}: {problem}", file=sys.stderr)
    if failed:
        first = next(iter(failed.values()))
        raise first if len(failed) == 1 else OperationError(f"{len(failed)} of {len(slices)} slices failed: {first}")
    return {name: future.result() for name, future in running.items()}

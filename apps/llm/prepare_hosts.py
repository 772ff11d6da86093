"""Bring to the hosts what a replica's engine starts with: weights, then the programs that were compiled for them before."""

from collections.abc import Mapping, Sequence
from typing import Any

from apps.llm.compile_cache import Programs
from apps.weights.args import prefetch_args
from apps.weights.cluster import prefetch_for_replica


async def prepare_hosts(config: Mapping[str, Any], node_ids: Sequence[str]) -> None:
    """Prepare the hosts of an LLM config that asks for a prefetch. Raises as `prefetch_for_replica` does."""
    await prefetch_for_replica(prefetch_args(config), str(config["model_loading_config"]["model_source"]), node_ids)
    if programs := Programs.of(config):
        await programs.fetch(node_ids)

"""What comes to the hosts before a replica's engine starts: weights, then the programs that were compiled for them before."""

from collections.abc import Mapping, Sequence
from typing import Any

from apps.llm.compile_cache import Programs
from apps.weights.for_replica import bring_weights
from apps.weights.replica_args import prefetch_args


async def bring(config: Mapping[str, Any], node_ids: Sequence[str]) -> None:
    """For an LLM config that asks for a prefetch. Raises as `bring_weights` does."""
    await bring_weights(prefetch_args(config), str(config["model_loading_config"]["model_source"]), node_ids)
    if programs := Programs.of(config):
        await programs.bring(node_ids)

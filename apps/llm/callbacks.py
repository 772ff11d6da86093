"""Prepare weights before Ray Serve LLM starts an engine, in Ray's own hook for it (`callback_config`).

The only module that imports Ray's private `CallbackBase` (pinned: Ray 2.60.0).
"""

from pathlib import Path
from typing import Any

import ray
from ray.llm._internal.common.callbacks.base import CallbackBase

from apps.llm.compile_cache import prepare_hosts
from apps.weights.args import prefetch_args
from apps.weights.cache import resolve_source


class LocalWeights(CallbackBase):
    """Check weights in a local directory, and skip Ray's download step.

    Without it Ray starts one more worker that imports vLLM only to find that there is nothing to download.
    """

    async def on_before_node_init(self) -> None:
        source = self.llm_config.model_loading_config.model_source
        if Path(source).is_dir():
            resolve_source(source)
            self.ctx.run_init_node = False


class Prefetch(CallbackBase):
    """Copy staged weights to the disks of the replica's hosts; the engine then loads them from its `model_source`.

    It runs in the replica, which knows all hosts; Ray's hook for each host (`on_before_download_model_files_distributed`) could
    not share one download between them.
    """

    async def on_before_node_init(self) -> None:
        config = self.llm_config.model_dump()
        await prepare_hosts(config, _nodes(self.ctx.placement_group))
        # Ray need not look for downloads where there are none left
        self.ctx.run_init_node = prefetch_args(config).mode == "stream"


def _nodes(placement_group: Any) -> list[str]:
    if placement_group is None:
        return [ray.get_runtime_context().get_node_id()]
    table = ray.util.placement_group_table(placement_group)
    return list(table["bundles_to_node_id"].values())

"""A replica's compiled programs: fetched from the bucket, after the weights, before its engine starts; saved there when it has.

Without this a new or replaced host compiles for 20 minutes. JAX writes a program only where `jax.distributed` has process id 0
(jax/_src/compiler.py, `_cache_write`). vLLM TPU 0.29 never initializes that: as read from its source, and not seen on a slice,
every host writes its own. Programs are copied as weights are.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ray.util.metrics import Gauge

from apps.common.errors import BundleError
from apps.common.settings import compile_cache_directory
from apps.llm.cache_identity import COMPILERS, identity, programs_url
from apps.weights.args import asks_for_prefetch, directory_on, prefetch_args
from apps.weights.cluster import own_host, places, prefetch_for_replica, url_of
from apps.weights.progress import LogProgress, Progress
from apps.weights.slice_prefetch import prefetch_on_hosts
from apps.weights.sources import open_source
from apps.weights.stage import stage
from apps.weights.store import Store

logger = logging.getLogger("ray.serve")
_HIT = Gauge(
    "compile_cache_hit", description="1 where a replica's start compiled nothing, as the bucket had every program, else 0"
)
_PROGRAMS = Gauge("compile_cache_programs", description="Compiled programs on a host's disk", tag_keys=("host",))
_PROGRAM = "*-cache"  # as JAX names them
_POLL_S = 10.0


class Programs:
    """Compiled programs of one replica: in `directory` on each host (`{host}` is the host's name), at `url` in the bucket."""

    def __init__(self, directory: str, url: str) -> None:
        self._directory = directory
        self._url = url
        self._watching: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Programs | None":
        """A replica's programs; None without a compile cache (`VLLM_XLA_CACHE_PATH`), or with weights from no bucket."""
        directory = compile_cache_directory()
        if directory is None or not asks_for_prefetch(config):
            return None
        return cls(directory, programs_url(url_of(prefetch_args(config)), identity(config, _versions())))

    async def fetch(self, node_ids: Sequence[str]) -> None:
        """Copy the bucket's programs to every node. The engine also starts without them, so a failure is only logged."""
        try:
            fetched = await asyncio.to_thread(self._fetch, node_ids)
        except BundleError as error:
            logger.warning(f"compile cache: not fetched, so the engine compiles: {error}")
        else:
            logger.info(f"compile cache: {fetched} programs fetched from {self._url}")

    def own_directory(self) -> Path:
        """The directory on this host."""
        return Path(directory_on(own_host(), self._directory))

    def save(self) -> None:
        """Save what the start has compiled, then log whenever the engine compiles while it serves."""
        self._watching = asyncio.create_task(self._watch())

    def _fetch(self, node_ids: Sequence[str]) -> int:
        manifest = Store(self._url).manifest()
        if manifest is None:
            return 0
        prefetch_on_hosts(self._url, places(node_ids, self._directory), "slice-once", LogProgress(logger.info))
        return len(manifest.files)

    async def _watch(self) -> None:
        host, own = own_host(), self.own_directory()
        compiled = _count(own)
        hit = await self._save(own)
        while True:
            if (now := _count(own)) > compiled:
                logger.warning(f"compile cache: {now - compiled} programs compiled while serving; each held up all requests")
                compiled = now
            _PROGRAMS.set(now, {"host": host})  # again and again: Ray exports only what was set since its last export
            if hit is not None:
                _HIT.set(int(hit))
            await asyncio.sleep(_POLL_S)

    async def _save(self, own: Path) -> bool | None:
        """Save what the bucket lacks. Returns whether it lacked nothing; None where the bucket cannot be read."""
        try:
            missed, loaded = await asyncio.to_thread(save_missing, own, Store(self._url))
        except BundleError as error:
            logger.warning(f"compile cache: not saved, so the next host compiles again: {error}")
            return None
        logger.info(f"compile cache: the start compiled {missed} programs and loaded {loaded} from {self._url}")
        return loaded > 0 and not missed


async def prepare_hosts(config: Mapping[str, Any], node_ids: Sequence[str]) -> None:
    """Copy weights, then programs, to the hosts of an LLM config that asks for a prefetch. Raises as `prefetch_for_replica`."""
    await prefetch_for_replica(prefetch_args(config), str(config["model_loading_config"]["model_source"]), node_ids)
    if programs := Programs.of(config):
        await programs.fetch(node_ids)


def save_missing(own: Path, store: Store) -> tuple[int, int]:
    """Stage a host's programs if some are not in the bucket yet. Returns how many were not, and how many were."""
    manifest = store.manifest()
    staged = {file.name for file in manifest.files} if manifest else set()
    there = {path.name for path in own.glob(_PROGRAM)}
    if there - staged and staged <= there:  # a host that lacks some of the bucket's must not take their place
        stage(open_source(str(own), None, allow=[_PROGRAM]), store, Progress(), replace=True)
    return len(there - staged), len(there & staged)


def _count(directory: Path) -> int:
    return sum(1 for _ in directory.glob(_PROGRAM))


def _versions() -> dict[str, str]:
    versions = {}
    for name in COMPILERS:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions

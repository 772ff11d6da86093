"""A replica's compiled programs: brought from the bucket before its engine starts, and saved there after its first warm-up.

JAX writes programs on the first of a slice's processes only (jax/_src/compiler.py, `_cache_write`), so without this the other
hosts compile at every start, and a replaced host for 20 minutes. They are moved as weights are: manifest, parts, receipts.
"""

import asyncio
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
from apps.weights.cluster import own_host, places, url_of
from apps.weights.progress import LogWatcher, Progress
from apps.weights.slice_prefetch import prefetch_on_hosts
from apps.weights.sources import open_source
from apps.weights.stage import stage
from apps.weights.store import Store

logger = logging.getLogger("ray.serve")
_HIT = Gauge("compile_cache_hit", description="1 where a replica found its compiled programs in the bucket, else 0")
_PROGRAMS = Gauge("compile_cache_programs", description="Compiled programs on a host's disk", tag_keys=("host",))
_PROGRAM = "*-cache"  # as JAX names them
_POLL_S = 10.0


class Programs:
    """Of one replica: `directory` on each host (in which `{host}` stands for it), `url` in the bucket."""

    def __init__(self, directory: str, url: str) -> None:
        self._directory = directory
        self._url = url
        self._watching: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Programs | None":
        """None for a replica without a compile cache (`VLLM_XLA_CACHE_PATH`), or whose weights come from no bucket."""
        directory = compile_cache_directory()
        if directory is None or not asks_for_prefetch(config):
            return None
        return cls(directory, programs_url(url_of(prefetch_args(config)), identity(config, _versions())))

    async def fetch(self, node_ids: Sequence[str]) -> None:
        """Let every node have what the bucket has. The engine also starts without it, so a failure is only said."""
        hit = False
        try:
            hit = await asyncio.to_thread(self._fetch, node_ids)
        except BundleError as error:
            logger.warning(f"compile cache: not brought, the engine compiles: {error}")
        logger.info(f"compile cache: {'hit' if hit else 'miss'} at {self._url}")

    def own_directory(self) -> Path:
        """Of this host."""
        return Path(directory_on(own_host(), self._directory))

    def save(self) -> None:
        """Save what the start has compiled, then say when the engine compiles while it serves."""
        self._watching = asyncio.create_task(self._watch())

    def _fetch(self, node_ids: Sequence[str]) -> bool:
        if Store(self._url).manifest() is None:
            return False
        prefetch_on_hosts(self._url, places(node_ids, self._directory), "slice-once", LogWatcher(logger.info))
        return True

    async def _watch(self) -> None:
        host, own = own_host(), self.own_directory()
        compiled = _count(own)
        hit = await self._save(own)
        while True:
            if (now := _count(own)) > compiled:
                logger.warning(f"compile cache: {now - compiled} programs compiled while serving; each made all requests wait")
                compiled = now
            _export(host, now, hit)
            await asyncio.sleep(_POLL_S)

    async def _save(self, own: Path) -> bool | None:
        """Save the programs unless the bucket has some; whether it had, or None where it cannot be asked."""
        try:
            saved = await asyncio.to_thread(self._save_once, own)
        except BundleError as error:
            logger.warning(f"compile cache: not saved, the next host compiles again: {error}")
            return None
        if saved:
            logger.info(f"compile cache: {saved} programs saved at {self._url}")
        return saved is None

    def _save_once(self, own: Path) -> int | None:
        """How many were saved; None where the bucket has them already."""
        store = Store(self._url)
        if store.manifest() is not None:
            return None
        programs = _count(own)
        if programs:
            stage(open_source(str(own), None, allow=[_PROGRAM]), store, Progress())
        return programs


def _count(directory: Path) -> int:
    return sum(1 for _ in directory.glob(_PROGRAM))


def _versions() -> dict[str, str]:
    found = {}
    for name in COMPILERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _export(host: str, programs: int, hit: bool | None) -> None:
    """How many programs are on a host's disk, and what the start found in the bucket (None: it could not be asked).

    To be said again and again: Ray exports what was set since its last export.
    """
    _PROGRAMS.set(programs, {"host": host})
    if hit is not None:
        _HIT.set(int(hit))

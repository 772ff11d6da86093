"""Start vLLM's engine core from a fork server that imports vLLM while the replica still loads its tokenizer.

vLLM would start the core by "spawn", and only after the tokenizer: one more import of vLLM, in sequence. The fork server is
a fresh interpreter without Ray's threads, so forking from it is safe where forking from the replica is not. Touches vLLM's
private `vllm.v1.engine.utils.get_mp_context` (pinned: 0.29.0); if that name goes, start-up is slower, not broken.
"""

import logging
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import Any

logger = logging.getLogger("ray.serve")
_PRELOAD = ["apps.llm.preload"]


def start_fork_server() -> Any:
    """Start the fork server unless it runs, and return its multiprocessing context at once; it imports vLLM meanwhile."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    with _process_settings():
        forkserver.ensure_running()
    return context


@contextmanager
def forked_engine_core() -> Iterator[None]:
    """Fork vLLM's engine-core processes from the fork server inside the block."""
    from vllm.v1.engine import utils

    original = getattr(utils, "get_mp_context", None)
    if original is None:
        logger.warning("vLLM has no engine.utils.get_mp_context: the engine core is spawned, which takes longer")
        yield
        return
    context = start_fork_server()
    utils.get_mp_context = lambda: context
    try:
        yield
    finally:
        utils.get_mp_context = original


@contextmanager
def _process_settings() -> Iterator[None]:
    """Set how the engine core's threads and memory work, in the environment that the fork server inherits.

    Ray sets OMP_NUM_THREADS to the replica's CPU count (1); the core gets every core it may run on. Threads that wait sleep
    instead of spinning: with another busy process on 2 cores a token takes 133 ms this way, and 375 ms otherwise. Large blocks
    (weights, KV) come in huge pages where the kernel has them: a third less time to fill them.
    """
    wanted = {
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        "OMP_WAIT_POLICY": "PASSIVE",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

"""Imports that the engine core needs, made ahead of time by the fork server (see forked_core)."""

from apps.common.imports import without_gc

with without_gc():
    import vllm.v1.engine.core
    import vllm.v1.executor.uniproc_executor
    import vllm.v1.structured_output
    import vllm.v1.worker.cpu_worker  # noqa: F401

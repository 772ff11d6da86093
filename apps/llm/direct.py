"""The Serve deployment of the direct path. Light to import: Serve builds the app from it without importing vLLM.

Importing vLLM takes 10 s of a core. Ray's own builder does it once to build the app and once more in the replica, one after
the other; here only the replica does.
"""

import pkgutil
from typing import Any

from apps.common.settings import engine_class, otlp_endpoint
from apps.common.tracing import Traced
from apps.guard.middleware import GuardMiddleware
from apps.guard.settings import ReplicaGuard
from apps.slice.fail_fast import FailFastMiddleware
from apps.weights.args import asks_for_prefetch


class DirectServer:
    """One replica: the model's engine with its own HTTP server as the replica's app."""

    async def __init__(self, config: dict[str, Any], guard: ReplicaGuard) -> None:  # type: ignore[misc]  # Serve awaits it
        self._guard = guard
        self._server = _make_server(config)
        await self._server.start()

    async def __serve_build_asgi_app__(self) -> Any:
        app = await self._server.__serve_build_asgi_app__()
        app.middleware_stack = None  # vLLM has built its own already
        if otlp_endpoint():
            app.add_middleware(Traced)
        # Outside of all else: Ray looks for a LoRA adapter before vLLM's own `middleware` is asked.
        app.add_middleware(GuardMiddleware, settings=self._guard)
        app.add_middleware(FailFastMiddleware, broken=self._server.broken)
        app.middleware_stack = app.build_middleware_stack()  # a guard without keys ends the start, not the first request
        return app

    async def check_health(self) -> None:
        await self._server.check_health()

    async def record_routing_stats(self) -> dict[str, Any]:
        return await self._server.record_routing_stats()


def _make_server(config: dict[str, Any]) -> Any:
    if asks_for_prefetch(config):
        from apps.weights.cluster import on_this_host

        config = on_this_host(config)
    if (name := engine_class()) and (replica := getattr(pkgutil.resolve_name(name), "DIRECT_REPLICA", None)):
        return replica(config)  # an engine with a server of its own, which does without vLLM and Ray Serve LLM
    if (config.get("accelerator_config") or {}).get("kind") == "cpu":
        from apps.llm.forked_core import start_fork_server

        start_fork_server()  # imports vLLM in parallel to what follows
    from apps.llm.server import Server, make_llm_config

    return Server.sync_init(make_llm_config(config))

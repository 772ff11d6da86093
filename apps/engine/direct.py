"""The Serve deployment of the direct path. Light to import: Serve builds the app from it without importing vLLM.

Importing vLLM takes 10 s of a core. Ray's own builder does it once to build the app and once more in the replica, one after
the other; here only the replica does.
"""

from typing import Any


class DirectServer:
    """One replica: the model's engine with vLLM's own HTTP server as the replica's app."""

    async def __init__(self, config: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        if (config.get("accelerator_config") or {}).get("kind") == "cpu":
            from apps.engine.forked_core import start_fork_server

            start_fork_server()  # imports vLLM in parallel to what follows
        from apps.engine.server import Server, make_llm_config

        self._server = Server.sync_init(make_llm_config(config))
        await self._server.start()

    async def __serve_build_asgi_app__(self) -> Any:
        return await self._server.__serve_build_asgi_app__()

    async def check_health(self) -> None:
        await self._server.check_health()

    async def record_routing_stats(self) -> dict[str, Any]:
        return await self._server.record_routing_stats()

"""The simulated engine as a replica of the direct path, as `Server` is for vLLM, without importing Ray Serve LLM or vLLM."""

import asyncio
from typing import Any

from apps.common.loopback import keep_replica_on_loopback
from apps.slice.watchdog import reserve_and_watch
from apps.weights.args import asks_for_prefetch
from emulation.sim.compiler import warm_up
from emulation.sim.engine import Simulation
from emulation.sim.faults import EngineDeadError
from emulation.sim.server import build_server


class SimulatedServer:
    """Has the methods of Ray's LLM server that `DirectServer` calls."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._simulation: Simulation | None = None
        self._programs: Any = None
        self.watchdog: Any = None
        self.broken = asyncio.Event()

    async def start(self) -> None:
        """Reserve the slice, copy the weights to its hosts, then start the engine."""
        keep_replica_on_loopback()
        self.watchdog = await reserve_and_watch(self._config)
        self.broken = self.watchdog.broken if self.watchdog else self.broken
        if self.watchdog and asks_for_prefetch(self._config):
            from apps.llm.compile_cache import prepare_hosts

            await prepare_hosts(self._config, self.watchdog.node_ids)
        self._simulation = Simulation(self._config)
        self._programs = await warm_up(self._config, self._simulation.max_num_seqs)
        self._ending = asyncio.create_task(self._end_with(self._simulation))

    async def _end_with(self, simulation: Simulation) -> None:
        await simulation.scheduler.ended.wait()
        self.broken.set()

    async def __serve_build_asgi_app__(self) -> Any:
        assert self._simulation is not None
        return build_server(self._simulation)

    async def check_health(self) -> None:
        if self.watchdog:
            self.watchdog.check()
        if self._simulation and self._simulation.scheduler.ended.is_set():
            raise EngineDeadError

    async def record_routing_stats(self) -> dict[str, Any]:
        return {}

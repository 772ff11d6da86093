"""The simulated engine behind its own server alone, configured as on the emulated slice; its argument is the port."""

import asyncio
import sys

import uvicorn

from apps.engine.sim.engine import Simulation
from apps.engine.sim.server import build_server
from benchmarks.overhead.servers import llm_config_for


async def serve(port: int) -> None:
    """Until it is stopped. The simulation needs a running loop."""
    app = build_server(Simulation(llm_config_for("sim")))
    await uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning")).serve()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))

"""The simulated engine behind its own server alone; its arguments are the port and a file with the LLM config."""

import asyncio
import sys
from pathlib import Path

import uvicorn
import yaml

from emulation.sim.engine import Simulation
from emulation.sim.server import build_server


async def serve(port: int, llm_config: Path) -> None:
    """Until it is stopped. The simulation needs a running loop."""
    app = build_server(Simulation(yaml.safe_load(llm_config.read_text())))
    await uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning")).serve()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))

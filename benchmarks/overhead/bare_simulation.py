"""The simulated engine behind its own server alone, configured as on the emulated slice; its argument is the port."""

import sys

import uvicorn

from apps.engine.sim.engine import Simulation
from apps.engine.sim.server import build_server
from benchmarks.overhead.servers import llm_config_for

if __name__ == "__main__":
    app = build_server(Simulation(llm_config_for("sim")))
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")

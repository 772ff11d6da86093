"""The simulated engine with or without the guard, on a socket, in the event loop that Ray's replicas have: uvloop's.

python -m tests.perf.guard.server PORT EFFICIENCY none|guard|timed    `timed`: the guard with a stopwatch around it
"""

import gc
import sys
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from apps.guard.middleware import GuardMiddleware
from emulation.sim.engine import Simulation
from emulation.sim.server import build_server
from tests.perf.guard.stopwatch import Stopwatch

MODEL = "google/gemma-4-31B-it"
CONFIG: dict[str, Any] = {
    "model_loading_config": {"model_id": MODEL},
    "accelerator_type": "TPU-V6E",
    "accelerator_config": {"kind": "tpu", "topology": "4x4"},
    "engine_kwargs": {"tensor_parallel_size": 16, "max_model_len": 4096, "max_num_seqs": 512, "max_num_batched_tokens": 8192},
}
_AROUND = {"guard": GuardMiddleware, "timed": Stopwatch}


def _app(efficiency: float, around: str) -> ASGIApp:
    app = build_server(Simulation(CONFIG, efficiency))
    app = _AROUND[around](app) if around != "none" else app
    gc.collect()
    gc.freeze()  # as vLLM's server and Serve's replicas do once they are up: else each collection walks all modules
    return app


if __name__ == "__main__":
    app = partial(_app, float(sys.argv[2]), sys.argv[3])
    uvicorn.run(app, factory=True, loop="uvloop", port=int(sys.argv[1]), log_level="error", lifespan="off")

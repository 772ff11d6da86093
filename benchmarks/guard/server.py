"""The simulated engine with or without the guard, on a socket, and a stopwatch around the guard: what benchmarks.guard asks.

python -m benchmarks.guard.server PORT EFFICIENCY    the guard is on where its settings are in the environment, as in a replica
"""

import asyncio
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.engine.sim.engine import Simulation
from apps.engine.sim.server import build_server
from apps.guard.middleware import Guard
from apps.settings import guard_settings

MODEL = "google/gemma-4-31B-it"
CONFIG: dict[str, Any] = {
    "model_loading_config": {"model_id": MODEL},
    "accelerator_type": "TPU-V6E",
    "accelerator_config": {"kind": "tpu", "topology": "4x4"},
    "engine_kwargs": {"tensor_parallel_size": 16, "max_model_len": 4096, "max_num_seqs": 512, "max_num_batched_tokens": 8192},
}
TIMES = "/stopwatch"


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile of a non-empty list."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100), 1) - 1]


class Stopwatch:
    """Time that a request spends in what is between two places: on its way in, and its first token's on the way out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = Guard(self._inside)
        self._behind = app
        self._spent_s: list[float] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == TIMES:
            spent, self._spent_s = self._spent_s, []
            shown = {f"p{share}_ms": 1000 * percentile(spent, share) for share in (50, 99)}
            await JSONResponse(shown)(scope, receive, send)
            return
        marks = {"in": time.perf_counter()}

        async def outside(message: Message) -> None:
            if "first" in marks and "done" not in marks:
                marks["done"] = time.perf_counter()
                self._spent_s.append(marks["inside"] - marks["in"] + marks["done"] - marks["first"])
            await send(message)

        await self._app({**scope, "marks": marks}, receive, outside)

    async def _inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        marks = scope["marks"]
        marks["inside"] = time.perf_counter()

        async def sent(message: Message) -> None:
            if message.get("body") and "first" not in marks:
                marks["first"] = time.perf_counter()
            await send(message)

        await self._behind(scope, receive, sent)


async def _serve(port: int, efficiency: float) -> None:
    app: ASGIApp = build_server(Simulation(CONFIG, efficiency))
    if guard_settings():
        app = Stopwatch(app)
    await uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="off")).serve()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))

"""Servers on ports of one process: simulated engines of a slice each, or without an engine. `WHAT PORT...`.

WHAT is how much slower than real the engines' clocks run, or `instant` for servers that answer at once.
"""

import asyncio
import sys
from collections.abc import Sequence

import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from apps.slice.efficiency import WHOLE_STEP
from emulation.sim.engine import Simulation
from emulation.sim.server import build_server
from tests.e2e.conftest import ROOT


def simulation(slower: float = 1) -> Simulation:
    """The engine of serve_configs/gemma.yaml."""
    apps = yaml.safe_load((ROOT / "serve_configs" / "gemma.yaml").read_text())["applications"]
    (config,) = apps[0]["args"]["llm_configs"]
    return Simulation(config, WHOLE_STEP / slower)


async def ready(request: Request) -> Response:
    """Answer once the body is there."""
    await request.body()
    return Response(b"{}")


async def serve(ports: Sequence[int], slower: float | None) -> None:
    """Serve until stopped; each engine has serve_configs/gemma.yaml's model on a slice of its own."""
    servers = []
    for port in ports:
        app = build_server(simulation(slower)) if slower else Starlette()
        app.add_route("/{path:path}", ready, methods=["GET", "POST"])  # what is no route of the engine: HAProxy's check
        servers.append(
            uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", timeout_keep_alive=90))
        )
    await asyncio.gather(*(server.serve() for server in servers))


if __name__ == "__main__":
    asyncio.run(serve([int(port) for port in sys.argv[2:]], None if sys.argv[1] == "instant" else float(sys.argv[1])))

"""The guard in front of the simulated engine, on a real socket of loopback: no Ray, up in milliseconds."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import openai
import uvicorn

from apps.guard.keyfile import change_keys, make_key, utc_now
from apps.guard.keys import by_name
from apps.guard.middleware import GuardMiddleware
from apps.guard.settings import GuardArgs, replica_guard
from emulation.sim.engine import Simulation
from emulation.sim.server import build_server

MODEL = "google/gemma-4-31B-it"
HELLO: Any = [{"role": "user", "content": "Hello there"}]
LLM_CONFIG: dict[str, Any] = {
    "model_loading_config": {"model_id": MODEL},
    "accelerator_type": "TPU-V6E",
    "accelerator_config": {"kind": "tpu", "topology": "4x4"},
    "engine_kwargs": {"tensor_parallel_size": 16, "max_model_len": 8192, "max_num_seqs": 64},
}


@dataclass
class Keys:
    """A keys file of a test, and the texts of its keys by their names."""

    path: Path
    texts: dict[str, str] = field(default_factory=dict)

    def make(self, name: str, **settings: Any) -> str:
        text, id, entry = make_key({"name": name, **settings}, utc_now())
        with change_keys(self.path) as keys:
            keys[id] = entry
        self.texts[name] = text
        return text

    def revoke(self, name: str) -> None:
        with change_keys(self.path) as keys:
            for id in by_name(keys, name):
                del keys[id]

    def make_expired(self, name: str) -> str:
        return self.make(name, expires=datetime.now(UTC) - timedelta(minutes=1))


@dataclass
class Served:
    """A running server. `guard` is for looking inside."""

    url: str
    guard: GuardMiddleware
    simulation: Simulation | None
    audit: Path
    problems: list[str] = field(default_factory=list)

    def client(self, key: str | None = None, **more: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key or "none", max_retries=0, timeout=60, **more)

    def headers(self, key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {key}"}


@contextmanager
def served(
    keys: Keys | None, tmp_path: Path, app: Any = None, engine: dict[str, Any] | None = None, **args: Any
) -> Iterator[Served]:
    """Serve an app (the simulated engine's by default) behind a guard with these settings, for the block's time."""
    section = {"keys_files": [str(keys.path)]} if keys else {"open": True}
    audit = tmp_path / "audit.jsonl"
    replicas, local = args.pop("replicas", 1), args.pop("local", False)
    model = args.pop("model", None)
    flavour = args.pop("flavour", "vllm-cpu" if app else "vllm-tpu")
    settings = GuardArgs.model_validate({**section, "audit_file": str(audit), **args})
    config = {**LLM_CONFIG, "engine_kwargs": LLM_CONFIG["engine_kwargs"] | (engine or {})}
    kwargs = config["engine_kwargs"]
    started: dict[str, Any] = {}

    def run() -> None:
        async def main() -> None:
            simulation = None if app else Simulation(config)
            replica = replica_guard(settings, kwargs, replicas, 1, model=model, flavour=flavour)
            replica = replica.model_copy(update={"local": local, "tokenizer": None})
            guard = GuardMiddleware(app or build_server(simulation), replica)  # type: ignore[arg-type]
            server = uvicorn.Server(uvicorn.Config(guard, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
            started.update(server=server, guard=guard, simulation=simulation)
            await server.serve()
            guard.housekeeping.close()

        asyncio.run(main())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    wait_for(lambda: "server" in started and started["server"].started, 10, "the server")
    port = started["server"].servers[0].sockets[0].getsockname()[1]
    try:
        yield Served(f"http://127.0.0.1:{port}", started["guard"], started["simulation"], audit)
    finally:
        started["server"].should_exit = True
        started["server"].force_exit = True
        thread.join(15)


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def ask(client: openai.OpenAI, *, stream: bool = False, **more: Any) -> Any:
    body: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_tokens": 6, "extra_body": {"ignore_eos": True}} | more
    return client.chat.completions.create(**body, stream=stream)


def post(server: Served, key: str | None, body: Any, path: str = "/v1/completions", **headers: str) -> httpx.Response:
    auth = {"authorization": f"Bearer {key}"} if key else {}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(
        server.url + path, content=content, headers={"content-type": "application/json", **auth, **headers}, timeout=30
    )


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]

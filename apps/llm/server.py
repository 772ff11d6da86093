"""Ray Serve LLM's server and vLLM engine, with the repairs and laptop settings of this project.

Imports Ray's private `ray.llm._internal` for servers, ingress and engine (pinned: Ray 2.60.0). What each override needs, and
what breaks if Ray changes it, stands at the override. Heavy: imports torch and vLLM.
"""

import asyncio
import logging
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from apps.common.imports import without_gc
from apps.common.serve_log import join_serve_log, kept_serve_log

with without_gc(), kept_serve_log():
    from ray.llm._internal.serve.core.configs.openai_api_models import OpenAIHTTPException
    from ray.llm._internal.serve.core.ingress.ingress import OpenAiIngress
    from ray.llm._internal.serve.core.server.llm_server import LLMServer
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
    from ray.serve.llm import LLMConfig

from apps.common.loopback import keep_replica_on_loopback
from apps.common.settings import otlp_endpoint
from apps.guard.middleware import GuardMiddleware
from apps.guard.settings import ReplicaGuard
from apps.llm.callbacks import LocalWeights
from apps.llm.compile_cache import Programs
from apps.llm.forked_core import forked_engine_core
from apps.slice.watchdog import reserve_and_watch

join_serve_log()

logger = logging.getLogger("ray.serve")
_POLL_S = 0.5


def make_llm_config(config: dict[str, Any]) -> LLMConfig:
    """Ray's `LLMConfig` from a prepared dict of its form, set up for weights in a local directory. Raises pydantic's error."""
    engine: dict[str, Any] = {"enable_log_requests": True}  # by their ids, see join_serve_log
    if endpoint := otlp_endpoint():
        engine["otlp_traces_endpoint"] = endpoint
    engine |= config.get("engine_kwargs") or {}
    llm_config = LLMConfig(**{**config, "engine_kwargs": engine})
    source = config["model_loading_config"].get("model_source")
    if isinstance(source, str) and Path(source).is_dir():
        if "callback_config" not in config:
            llm_config.callback_config.callback_class = LocalWeights
        # Ray learns what the model can do only when the engine starts; the classic ingress answers /v1/models before that.
        llm_config.apply_checkpoint_info(source)
    return llm_config


class Engine(VLLMEngine):
    """vLLM engine of one replica."""

    async def start(self) -> None:
        await super().start()
        # Ray 2.60 looks for `openai_serving_tokenization`, vLLM 0.29 calls it `serving_tokenization`: without this line
        # /tokenize and /detokenize return 400 in the classic ingress.
        self._oai_serving_tokenization = getattr(self._app_state, "serving_tokenization", None)
        for served in self._app_state.openai_serving_models.base_model_paths:
            served.model_path = served.name  # /v1/models shows it as `root`: no directory of ours

    async def set_on_exit(self, broken: asyncio.Event) -> None:
        """Set `broken` as soon as the engine has exited: Serve stops the replica only after three failed checks."""
        while not self._engine_client.errored:
            await asyncio.sleep(_POLL_S)
        broken.set()

    def _prepare_engine_config(self, callback_ctx: Any) -> tuple[Any, Any, Any]:
        engine_args, frontend_args, vllm_config = super()._prepare_engine_config(callback_ctx)
        if _is_single_cpu_worker(vllm_config):
            # One worker needs no process of its own: the engine core runs it, which saves 0.7 GB, one import of vLLM and
            # a shared-memory hop per token. Ray and vLLM both insist on "mp" before this point.
            vllm_config.parallel_config.distributed_executor_backend = "uni"
        return engine_args, frontend_args, vllm_config

    def _start_async_llm_engine(self, engine_args: Any, vllm_config: Any, placement_group: Any) -> Any:
        if not _is_single_cpu_worker(vllm_config):
            return super()._start_async_llm_engine(engine_args, vllm_config, placement_group)
        with forked_engine_core():
            return super()._start_async_llm_engine(engine_args, vllm_config, placement_group)


class Server(LLMServer):
    """The Serve deployment of one model."""

    _default_engine_cls = Engine
    watchdog: Any = None
    """The watchdog of the replica's slice, where it has one."""
    broken: asyncio.Event
    """Set once this replica can answer no more requests: a host of its slice is lost, or its engine has exited."""

    async def _start_engine(self) -> None:
        # Ray's own version also starts a telemetry actor, which imports vLLM once more (0.7 GB, 10 s of a core) even
        # where usage statistics are off.
        keep_replica_on_loopback()
        self.watchdog = await reserve_and_watch(self._llm_config.model_dump())
        if self.watchdog:
            _use_placement_group(self._llm_config, self.watchdog.placement_group)
        self.broken = self.watchdog.broken if self.watchdog else asyncio.Event()
        await self.engine.start()
        self._ending = asyncio.create_task(self.engine.set_on_exit(self.broken))
        self._programs = Programs.of(self._llm_config.model_dump())
        if self._programs:
            self._programs.save()

    async def _maybe_resolve_lora_from_multiplex(self) -> None:
        # Ray fails (500) where a client names an adapter in a header and the model has none.
        if self._llm_config.lora_config is not None:
            await super()._maybe_resolve_lora_from_multiplex()

    async def check_health(self) -> None:
        if self.watchdog:
            self.watchdog.check()
        await super().check_health()


def _use_placement_group(llm_config: LLMConfig, group: Any) -> None:
    """Run the engine in a group that exists already: Ray's backend would reserve a slice by itself, and wait 100 s at most."""
    backend = llm_config.get_engine_config().accelerator
    backend.create_placement_group = lambda **_: group


class Ingress(OpenAiIngress):
    """The classic path's HTTP front, with the guard, and errors in OpenAI's form as vLLM's own server has them."""

    def __init__(self, *args: Any, guard: ReplicaGuard, **kwargs: Any) -> None:
        self._guard = guard
        super().__init__(*args, **kwargs)

    def _set_asgi_app(self, app: Any) -> None:
        # Serve mixes this class into its own replica wrapper, whose `_set_asgi_app` comes after it.
        keep_replica_on_loopback()
        app.add_middleware(GuardMiddleware, settings=self._guard)
        app.add_exception_handler(HTTPException, _openai_error)
        app.add_exception_handler(OpenAIHTTPException, _without_internals)
        app.add_exception_handler(TypeError, _wrong_type)
        super()._set_asgi_app(app)


async def _openai_error(request: Request, error: HTTPException) -> JSONResponse:  # noqa: ARG001 - the signature is Starlette's
    """Put into OpenAI's form what Ray's ingress refuses with FastAPI's {"detail": ...} (an unknown model or route)."""
    kind = "NotFoundError" if error.status_code == 404 else "invalid_request_error"
    content = {"error": {"message": str(error.detail), "type": kind, "param": None, "code": error.status_code}}
    return JSONResponse(content, error.status_code, headers=error.headers)


async def _without_internals(request: Request, error: OpenAIHTTPException) -> JSONResponse:
    """Keep vLLM's message alone: Ray adds internals, for which the guard would drop the whole message."""
    message = error.message.removeprefix("Message: ").partition(" (Request ID: ")[0]
    return await _openai_error(request, HTTPException(int(error.status_code), message))


async def _wrong_type(request: Request, error: TypeError) -> JSONResponse:
    """Return 400, as vLLM's server does, where its checks of a body raise TypeError ({"messages": 5}); Ray would return 500."""
    return await _openai_error(request, HTTPException(400, f"A value in the request has the wrong type: {error}"))


def _is_single_cpu_worker(vllm_config: Any) -> bool:
    return vllm_config.device_config.device_type == "cpu" and vllm_config.parallel_config.world_size == 1

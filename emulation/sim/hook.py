"""The simulated engine behind Ray Serve LLM's own hook, `RAYLLM_VLLM_ENGINE_CLS`.

On the classic path Ray's server drives it, through the methods of Ray's `LLMEngine` protocol that it calls; importing the
protocol itself would import vLLM. On the direct path it brings a replica of its own (`DIRECT_REPLICA`).
"""

from collections.abc import AsyncIterator
from typing import Any

from pydantic import ValidationError

from apps.common.errors import UserError
from apps.weights.args import asks_for_prefetch
from emulation.sim.compiler import warm_up
from emulation.sim.engine import Simulation
from emulation.sim.faults import EngineDeadError, RequestFailedError
from emulation.sim.protocol import ChatRequest, CompletionRequest, Shape, Usage, error_body, failure
from emulation.sim.replica import SimulatedServer
from emulation.sim.server import build_server, events


class SimulatedEngine:
    """Engine of one replica."""

    DIRECT_REPLICA = SimulatedServer

    def __init__(self, llm_config: Any) -> None:
        self._llm_config = llm_config
        self._simulation: Simulation | None = None
        self._programs: Any = None

    async def start(self) -> None:
        config: dict[str, Any] = self._llm_config.model_dump()
        if asks_for_prefetch(config):
            await self._llm_config.get_or_create_callback().run_callback("on_before_node_init")  # as Ray's own engine does
        self._simulation = Simulation(config)
        self._programs = await warm_up(config, self._simulation.max_num_seqs)

    async def build_asgi_app(self) -> Any:
        return build_server(self._started)

    async def check_health(self) -> None:
        """Raise `EngineDeadError` once a step has failed; the server watches the slice."""
        if self._started.scheduler.ended.is_set():
            raise EngineDeadError

    async def set_on_exit(self, broken: Any) -> None:
        """Set `broken` as soon as a step has failed."""
        await self._started.scheduler.ended.wait()
        broken.set()

    def routing_stats(self) -> dict[str, Any]:
        return {}

    async def resolve_lora(self, disk_lora_model: Any) -> None:
        raise UserError(f"the simulated engine has no LoRA adapters, but {disk_lora_model} was requested")

    async def chat(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:  # noqa: ARG002
        from ray.serve.llm.openai_api_models import ChatCompletionResponse

        async for chunk in self._answer(ChatRequest, request, ChatCompletionResponse):
            yield chunk

    async def completions(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:  # noqa: ARG002
        from ray.serve.llm.openai_api_models import CompletionResponse

        async for chunk in self._answer(CompletionRequest, request, CompletionResponse):
            yield chunk

    @property
    def _started(self) -> Simulation:
        assert self._simulation is not None, "start() comes first"
        return self._simulation

    async def _answer(self, kind: type[ChatRequest | CompletionRequest], request: Any, whole: Any) -> AsyncIterator[Any]:
        try:
            asked = kind.model_validate(request.model_dump(exclude_unset=True))
            ready = self._started.admit(asked)
        except (UserError, ValidationError, RequestFailedError) as error:
            yield _refusal(error)
            return
        usage, shape = Usage(len(ready.prompt)), Shape(asked.model, chat=kind is ChatRequest)
        pieces = self._started.answer(ready, asked.stops, usage)
        if asked.stream:
            async for event in events(pieces, shape, usage if asked.stream_options.include_usage else None):
                yield event
            return
        try:
            parts = [piece async for piece in pieces]
            yield whole(**shape.whole("".join(text for text, _ in parts), parts[-1][1] or "stop", usage))
        except EngineDeadError as error:
            yield _refusal(error)


def _refusal(error: Exception) -> Any:
    from ray.serve.llm.openai_api_models import ErrorResponse

    if isinstance(error, EngineDeadError | RequestFailedError):
        return ErrorResponse(**failure(error))
    message = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
    return ErrorResponse(**error_body(message, 400))

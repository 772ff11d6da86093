"""The simulated engine of one replica: it turns an LLM config into tokens at the described slice's speed."""

from collections.abc import AsyncIterator
from typing import Any

from apps.common.errors import UserError
from apps.slice.efficiency import WHOLE_STEP
from apps.slice.memory import Layout, kv_tokens
from apps.slice.models import ModelShape, recorded_shape
from apps.slice.topology import slice_of
from emulation.sim import faults
from emulation.sim.cache import KvCache
from emulation.sim.protocol import ChatRequest, CompletionRequest, Usage
from emulation.sim.scheduler import Limits, Request, Scheduler
from emulation.sim.text import continuation, endless, tokenize

_UTILIZATION = 0.9
_MAX_NUM_SEQS, _MAX_NUM_BATCHED_TOKENS = 256, 2048  # vLLM's own defaults for serving


class Simulation:
    """`model_id` and `max_model_len` as clients see them; `answer` yields pieces of text and then the finish reason."""

    def __init__(self, config: dict[str, Any], efficiency: float = WHOLE_STEP) -> None:
        engine = config.get("engine_kwargs") or {}
        self.model_id: str = config["model_loading_config"]["model_id"]
        shape = _shape(self.model_id)
        described = slice_of(config["accelerator_type"], config["accelerator_config"]["topology"])
        layout = Layout(shape, engine.get("tensor_parallel_size", described.chips))
        capacity = kv_tokens(layout, described.generation, engine.get("gpu_memory_utilization", _UTILIZATION))
        self.max_model_len: int = min(engine.get("max_model_len", shape.max_context), capacity)
        limits = Limits(
            engine.get("max_num_seqs", _MAX_NUM_SEQS),
            engine.get("max_num_batched_tokens", _MAX_NUM_BATCHED_TOKENS),
            self.max_model_len,
            efficiency,
        )
        self.max_num_seqs: int = limits.max_num_seqs
        cache = KvCache(capacity, prefix_caching=engine.get("enable_prefix_caching", True))
        self.scheduler = Scheduler(layout, described.generation, limits, cache)
        self.produced = 0

    def admit(self, asked: ChatRequest | CompletionRequest) -> Request:
        """Make the request ready to run. Raises `UserError` if it is longer than the model takes, else as `faults.check`."""
        faults.check(asked)
        prompt = tokenize(asked.text)
        room = self.max_model_len - len(prompt)
        wanted = (
            getattr(asked, "max_completion_tokens", None)
            or asked.max_tokens
            or (16 if isinstance(asked, CompletionRequest) else room)
        )
        if room < 1 or wanted > room:
            raise UserError(
                f"This model's maximum context length is {self.max_model_len} tokens. The prompt has {len(prompt)} and "
                f"{max(wanted, 1)} more were requested. Shorten the prompt or lower max_tokens."
            )
        source = (endless if asked.ignore_eos else continuation)(prompt)
        return Request(prompt, source, wanted, faults.in_step(asked), asked.cache_salt, asked.priority)

    async def answer(self, request: Request, stops: list[str], usage: Usage) -> AsyncIterator[tuple[str, str | None]]:
        """Yield pieces of text with None, then one with the finish reason. `usage` is kept up to date."""
        held_back, longest = "", max(map(len, stops), default=1) - 1
        async for token in self.scheduler.tokens(request):
            usage.completion, usage.cached = usage.completion + 1, request.cached
            self.produced += 1
            held_back += token
            if (at := min((held_back.find(stop) for stop in stops if stop in held_back), default=-1)) >= 0:
                yield held_back[:at], "stop"
                return
            ready = len(held_back) - longest
            if ready > 0:
                yield held_back[:ready], None
                held_back = held_back[ready:]
        yield held_back, "length" if request.budget <= 0 else "stop"


def _shape(model_id: str) -> ModelShape:
    shape = recorded_shape(model_id)
    if shape is None:
        raise UserError(f"model_id {model_id!r}: the simulated engine does not know its shape; it knows google/gemma-4-31B-it")
    return shape

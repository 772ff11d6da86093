"""The simulated engine's HTTP server for the OpenAI API, as vLLM's own is for a real engine. Light to import."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from apps.common.errors import UserError
from emulation.sim.engine import Simulation
from emulation.sim.faults import EngineDeadError, RequestFailedError
from emulation.sim.protocol import ChatRequest, CompletionRequest, Shape, TokenizeRequest, Usage, error_body, failure
from emulation.sim.text import tokenize


def build_server(simulation: Simulation) -> FastAPI:
    """The app, with the routes of vLLM's server."""
    app = FastAPI(title="simulated engine", docs_url=None, redoc_url=None)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(UserError, _too_long)
    app.add_exception_handler(RequestFailedError, _failed)
    app.add_exception_handler(EngineDeadError, _failed)
    card = {
        "id": simulation.model_id,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "simulated",
        "max_model_len": simulation.max_model_len,
    }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{model_id:path}")
    async def model(model_id: str) -> dict[str, Any]:
        _check_model(model_id, simulation)
        return card

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest) -> Response:
        return await _answer(asked, simulation)

    @app.post("/v1/completions")
    async def completions(asked: CompletionRequest) -> Response:
        return await _answer(asked, simulation)

    @app.post("/tokenize")
    async def tokens(asked: TokenizeRequest) -> dict[str, Any]:
        pieces = tokenize(asked.text)
        return {"count": len(pieces), "tokens": list(range(len(pieces))), "max_model_len": simulation.max_model_len}

    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=503 if simulation.scheduler.ended.is_set() else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(_metrics(simulation))

    return app


async def _answer(asked: ChatRequest | CompletionRequest, simulation: Simulation) -> Response:
    _check_model(asked.model, simulation)
    request = simulation.admit(asked)
    shape = Shape(asked.model, chat=isinstance(asked, ChatRequest))
    usage = Usage(len(request.prompt))
    pieces = simulation.answer(request, asked.stops, usage)
    if asked.stream:
        stream = events(pieces, shape, usage if asked.stream_options.include_usage else None)
        return StreamingResponse(stream, media_type="text/event-stream")
    parts = [piece async for piece in pieces]
    return JSONResponse(shape.whole("".join(text for text, _ in parts), parts[-1][1] or "stop", usage))


async def events(pieces: AsyncIterator[tuple[str, str | None]], shape: Shape, usage: Usage | None) -> AsyncIterator[str]:
    """Yield server-sent events of one response, the last one `[DONE]`; with `usage` before it if that is given."""
    first = list(shape.first())  # sent with the first token, as vLLM does
    try:
        async for text, reason in pieces:
            while first:
                yield _event(first.pop(0))
            if text:
                yield _event(shape.piece(text))
            if reason:
                yield _event(shape.last(reason))
        if usage:
            yield _event(shape.usage(usage))
    except EngineDeadError as error:
        yield _event(failure(error))
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n"  # as vLLM writes it


def _check_model(model_id: str, simulation: Simulation) -> None:
    if model_id != simulation.model_id:
        raise HTTPException(404, f"The model `{model_id}` does not exist; this server has `{simulation.model_id}`.")


def _metrics(simulation: Simulation) -> str:
    """Metrics under vLLM's names, so that its dashboards work."""
    scheduler, cache = simulation.scheduler, simulation.scheduler.cache
    values = {
        "vllm:num_requests_running": len(scheduler.running),
        "vllm:num_requests_waiting": len(scheduler.waiting),
        "vllm:kv_cache_usage_perc": cache.held / cache.capacity,
        "vllm:prefix_cache_queries_total": cache.queried,
        "vllm:prefix_cache_hits_total": cache.hits,
        "vllm:generation_tokens_total": simulation.produced,
        "sim:late_seconds": scheduler.late_s,
    }
    label = f'{{model_name="{simulation.model_id}"}}'
    return "".join(f"{name}{label} {value}\n" for name, value in values.items())


async def _invalid(request: HttpRequest, error: Exception) -> Response:  # noqa: ARG001 - the signature is Starlette's
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
    return JSONResponse(error_body(f"{where}: {first['msg']}", 400), 400)


async def _refused(request: HttpRequest, error: Exception) -> Response:  # noqa: ARG001
    assert isinstance(error, HTTPException)
    kind = "NotFoundError" if error.status_code == 404 else "invalid_request_error"
    return JSONResponse(error_body(str(error.detail), error.status_code, kind), error.status_code)


async def _failed(request: HttpRequest, error: Exception) -> Response:  # noqa: ARG001
    return JSONResponse(failure(error), 500)


async def _too_long(request: HttpRequest, error: Exception) -> Response:  # noqa: ARG001
    return JSONResponse(error_body(str(error), 400), 400)

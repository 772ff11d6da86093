"""A small OpenAI-compatible server on loopback whose timing is set: for tests that read requests or need known latencies."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


@dataclass
class FakeServer:
    """Answers `tokens` words, the first after `ttft_s` and an opening, then one every `itl_s`; keeps what it was asked.

    `ending` after them: `whole`; `cut` in the connection; `error` as an event; `silent`, without saying why.
    """

    tokens: int = 4
    ttft_s: float = 0.0
    itl_s: float = 0.0
    opening: str = ""
    takes_images: bool = False
    thinks: bool = False
    refusal: tuple[int, str] | None = None
    ending: str = "whole"
    models: int = 1
    requests: list[dict[str, Any]] = field(default_factory=list)
    disconnected: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/models/{id:path}", self._model),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/v1/chat/completions", self._answer, methods=["POST"]),
                Route("/v1/completions", self._answer, methods=["POST"]),
            ]
        )

    async def _models(self, _request: Request) -> Response:
        if self.refusal and self.refusal[0] == 503:
            return self._refused()
        models = [{"id": "fake", "object": "model", "created": 0, "owned_by": "x"}] * self.models
        return JSONResponse({"object": "list", "data": models})

    async def _model(self, _request: Request) -> Response:
        modality = "image" if self.takes_images else "text"
        return JSONResponse({"id": "fake", "object": "model", "owned_by": "x", "metadata": {"input_modality": modality}})

    async def _tokenize(self, request: Request) -> Response:
        thinking = (await request.json())["chat_template_kwargs"]["enable_thinking"]
        return JSONResponse({"tokens": [1, 2, 3] if thinking and self.thinks else [1, 2]})

    async def _answer(self, request: Request) -> Response:
        self.requests.append(await request.json())
        if self.refusal:
            return self._refused()
        return StreamingResponse(self._stream(request), media_type="text/event-stream")

    def _refused(self) -> Response:
        status, message = self.refusal or (500, "")
        return JSONResponse({"error": {"message": message, "type": "x", "param": None, "code": status}}, status)

    async def _stream(self, request: Request) -> AsyncIterator[str]:
        try:
            async for event in self._events(chat=request.url.path.endswith("chat/completions")):
                yield event
        except asyncio.CancelledError:  # the client went away
            self.disconnected.set()
            raise

    async def _events(self, *, chat: bool) -> AsyncIterator[str]:
        if chat and self.thinks:
            yield self._event([{"index": 0, "finish_reason": None, "delta": {"reasoning_content": "Hm."}}], None)
        for index in range(self.tokens):
            await asyncio.sleep(self.itl_s if index else self.ttft_s)
            word = f"w{index} " if index else f"{self.opening}w0 "
            choice = {"index": 0, "finish_reason": None} | ({"delta": {"content": word}} if chat else {"text": word})
            yield self._event([choice], None)
        if self.ending == "cut":
            raise asyncio.CancelledError  # uvicorn then closes the connection
        if self.ending == "error":
            yield f"data: {json.dumps({'error': {'message': 'EngineCore encountered an issue', 'type': 'x', 'code': 500}})}\n\n"
        if self.ending == "whole":
            yield self._event([{"index": 0, "finish_reason": "stop", "delta": {}, "text": ""}], None)
        yield self._event([], {"prompt_tokens": 3, "completion_tokens": self.tokens, "total_tokens": 3 + self.tokens})
        yield "data: [DONE]\n\n"

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, int] | None) -> str:
        chunk = {"id": "x", "object": "chunk", "created": 0, "model": "fake", "choices": choices, "usage": usage}
        return f"data: {json.dumps(chunk)}\n\n"


@contextmanager
def running(fake: FakeServer) -> Iterator[FakeServer]:
    """Serve on a free port of loopback for the block's time; `url` ends in /v1."""
    server = uvicorn.Server(uvicorn.Config(fake.app(), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    fake.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    try:
        yield fake
    finally:
        server.should_exit = True
        thread.join(10)

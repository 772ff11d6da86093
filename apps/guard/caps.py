"""How much one request may produce under its key's limits, by the server's own count of the prompt where that matters."""

import asyncio
import json
from typing import Any

from starlette.types import ASGIApp, Message, Scope

from apps.guard.answers import Refusal
from apps.guard.bodies import replaying, whole_answer
from apps.guard.generation_request import COMPLETION_DEFAULT_TOKENS, GenerationRequest
from apps.guard.settings import Limits

_TOKENIZED = (
    *("model", "messages", "tools", "chat_template_kwargs"),
    *("add_generation_prompt", "continue_final_message", "add_special_tokens"),
)


async def max_tokens_to_set(
    app: ASGIApp, scope: Scope, request: GenerationRequest, limits: Limits, context_tokens: int | None
) -> int | None:
    """max_tokens for the request where it has none and its key has a limit; None to leave it as it is.

    Raises:
        Refusal: 400, the request asks for more than its key may have.
    """
    max_tokens, context, asked = limits.max_tokens, limits.context_tokens, request.max_tokens
    if max_tokens is not None and asked is not None and asked > max_tokens:
        message = f"max_tokens is {asked}, but this key may ask for at most {max_tokens}."
        raise Refusal(400, message, "invalid_value", param="max_tokens")
    if asked is None and not request.chat:
        asked = COMPLETION_DEFAULT_TOKENS
        if max_tokens is not None and asked > max_tokens:
            return max_tokens
    if context is None and (asked is not None or max_tokens is None):
        return None
    room = min((tokens for tokens in (context, context_tokens) if tokens is not None), default=None)
    if _surely_fits(request, asked or max_tokens, room):
        return None if asked is not None else max_tokens
    counted = await count_tokens(app, scope, request)
    prompt = _estimate(request) if counted is None else counted
    if context is not None and prompt + (asked or 1) > context:
        raise _too_long(prompt, asked or 1, context)
    if asked is not None:
        return None
    left = room - prompt if room is not None else None
    return max(1, min(tokens for tokens in (max_tokens, left) if tokens is not None))


async def count_tokens(app: ASGIApp, scope: Scope, request: GenerationRequest) -> int | None:
    """Tokens of the (longest) prompt, by the server's own /tokenize; None if that cannot say it."""
    asked: dict[str, Any] = {name: request.fields[name] for name in _TOKENIZED if name in request.fields}
    if not request.chat:
        prompt = request.fields.get("prompt")
        if isinstance(prompt, list) and prompt and all(isinstance(text, str) for text in prompt):
            prompt = max(prompt, key=len)
        if not isinstance(prompt, str):
            return None
        asked["prompt"] = prompt
    status, body = await _post(app, scope, "/tokenize", json.dumps(asked).encode())
    try:
        count = json.loads(body)["count"] if status == 200 else None
    except (ValueError, KeyError, TypeError):
        return None
    return count if isinstance(count, int) else None


def _estimate(request: GenerationRequest) -> int:
    ids = request.fields.get("prompt")
    return request.max_prompt_tokens or request.prompt_tokens if isinstance(ids, list) else request.prompt_tokens


def _surely_fits(request: GenerationRequest, wanted: int | None, room: int | None) -> bool:
    if wanted is None or request.max_prompt_tokens is None:
        return False
    return room is None or request.max_prompt_tokens + wanted <= room


def _too_long(prompt: int, asked: int, context: int) -> Refusal:
    message = (
        f"This key's maximum context length is {context} tokens. The prompt has {prompt} and {asked} more were requested. "
        "Shorten the prompt or lower max_tokens."
    )
    return Refusal(400, message, "context_length_exceeded", param="messages")


async def _post(app: ASGIApp, scope: Scope, path: str, body: bytes) -> tuple[int, bytes]:
    """Ask the server behind, in this process. Its failures are only a status here."""
    path = scope.get("root_path", "") + path
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    inner = {**scope, "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
    inner.pop("state", None)
    return await whole_answer(app, inner, replaying(body, _stay))


async def _stay() -> Message:
    """What comes after the body: nothing. vLLM asks for it again and again, to see whether the client has left."""
    return await asyncio.get_running_loop().create_future()

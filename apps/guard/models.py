"""Which models a key may use: what it asks is checked, and in /v1/models it sees no others."""

import json
from collections.abc import Collection
from typing import Any

from starlette.types import Message, Send

from apps.guard.answers import Refusal

_LIST = "/v1/models"


def check(model: Any, allowed: Collection[str] | None) -> None:
    """Raise `Refusal` 404 for a model that is not among the allowed ones; None allows all."""
    if allowed is not None and model not in allowed:
        shown = repr(model)[:200] if model is not None else "that is asked for by default"
        raise Refusal(404, f"The model {shown} does not exist, or this key may not use it.", "model_not_found", param="model")


def answer_with(allowed: Collection[str] | None, path: str, send: Send) -> Send:
    """A `send` for a GET, which leaves the allowed models alone in a list of them. Raises as `check` for one that is not."""
    if allowed is None or not path.startswith(_LIST):
        return send
    if path.startswith(f"{_LIST}/"):
        check(path.removeprefix(f"{_LIST}/"), allowed)
        return send
    begun: Message = {}
    parts: list[bytes] = []

    async def send_allowed(message: Message) -> None:
        if message["type"] == "http.response.start":
            begun.update(message)
            return
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            body = _only(b"".join(parts), allowed)
            headers = [(name, value) for name, value in begun.get("headers", []) if name != b"content-length"]
            await send({**begun, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
            await send({"type": "http.response.body", "body": body})

    return send_allowed


def _only(body: bytes, allowed: Collection[str]) -> bytes:
    """A list of models without the others; what is no such list as it is: an error, or nothing (HEAD)."""
    try:
        found = json.loads(body)
        kept = [model for model in found["data"] if model["id"] in allowed]
    except (ValueError, KeyError, TypeError):
        return body
    return json.dumps({**found, "data": kept}).encode()

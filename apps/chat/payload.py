"""What of Gradio's own requests the page needs, and the check of what a client puts into them before Gradio sees it."""

import json
import re
from collections.abc import Container
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from apps.guard.answers import Refusal

API = "/gradio_api"
FILES = re.compile(
    r"/(?:theme\.css|favicon\.ico|(?:static|assets|svelte)/[\w./-]+)"
    rf"|{API}/(?:theme\.css|startup-events)"
)
"""What is the same for every visitor. Gradio itself keeps to its own folders below."""
STREAMS = re.compile(rf"{API}/(?:queue/data|heartbeat/(?P<page>\w{{1,32}}))")
JOIN, CANCEL, UPLOAD = f"{API}/queue/join", f"{API}/cancel", f"{API}/upload"
IMAGE = f"{API}/file="
PAGE = re.compile(r"\w{1,32}")
_MAX_DEPTH = 16


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    session_hash: str = Field(pattern=r"^\w{1,32}$")
    fn_index: int = Field(ge=0)


class _Join(_Message):
    data: list[Any] = Field(max_length=32)
    event_data: Any = None
    trigger_id: int | None = None


class _Cancel(_Message):
    event_id: str = Field(pattern=r"^\w{1,64}$")


def checked(path: str, body: bytes, events: int, tag: str, images: Container[str]) -> bytes:
    """The body of a POST to `JOIN` or `CANCEL`, with its page's name made the session's own by its tag.

    `events` is how many the page has.

    Raises:
        Refusal: it is not what the page sends, or names a file that is not one of the session's images.
    """
    kind = _Join if path == JOIN else _Cancel
    try:
        message = kind.model_validate(json.loads(body))
    except (ValidationError, ValueError, RecursionError):
        raise Refusal(400, "This is not what the chat's page sends.", "invalid_body") from None
    if message.fn_index >= events:
        raise Refusal(400, f"The page has {events} events, counted from 0.", "invalid_body")
    if isinstance(message, _Join):
        _check_files([message.data, message.event_data], images)
    return json.dumps({**message.model_dump(), "session_hash": own_page(message.session_hash, tag)}).encode()


def own_page(page: str, tag: str) -> str:
    """An open page's name in Gradio: another session that knows it has another page."""
    return f"{page}-{tag}"


def _check_files(value: Any, images: Container[str]) -> None:
    level = [value]
    for _ in range(_MAX_DEPTH):
        for node in level:
            if isinstance(node, dict) and ("path" in node or "meta" in node) and not _is_image(node.get("path"), images):
                raise Refusal(400, "The only files that can be named are images uploaded in this session.", "no_such_file")
        parents = [node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list)]
        level = [child for parent in parents for child in parent]
        if not level:
            return
    raise Refusal(400, f"The request is nested deeper than {_MAX_DEPTH} levels.", "invalid_body")


def _is_image(path: Any, images: Container[str]) -> bool:
    return isinstance(path, str) and path in images

"""What the guard itself answers: errors in the form of OpenAI's API, and texts of the server that no client may see."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

Headers = list[tuple[bytes, bytes]]
_LOGGED_BYTES = 16 * 1024


@dataclass(eq=False)
class Refusal(Exception):  # noqa: N818 - it is an answer, not a failure
    """A request that goes no further. `code` is OpenAI's where it has one."""

    status: int
    message: str
    code: str
    kind: str = "invalid_request_error"
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        return error_body(self.message, self.kind, self.code, self.param)


def error_body(message: str, kind: str, code: str | int, param: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


def json_headers(body: bytes, more: Mapping[str, str]) -> Headers:
    """Headers of an answer with a JSON body."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    return headers + [(name.encode(), value.encode()) for name, value in more.items()]


def one_line(body: bytes) -> str:
    """An answer for a log: it may repeat what a client sent, which must not write lines of its own there."""
    return body[:_LOGGED_BYTES].decode(errors="replace").encode("unicode_escape").decode()


def in_openai_form(body: bytes, status: int) -> bytes:
    """An error's body as it is if it has OpenAI's form; else its text, or what frameworks call `detail`, in that form."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and isinstance(found.get("error"), dict):
        return body
    detail = found.get("detail") if isinstance(found, dict) else body.decode(errors="replace")
    return error_body(str(detail or HTTPStatus(status).phrase)[:500], "invalid_request_error", status)


def failed(request_id: str) -> str:
    """The message in place of an internal one."""
    return f"The server could not answer. Its log has the reason under request id {request_id}."


def refused(request_id: str) -> str:
    """The message in place of one that speaks of the server's inside, where the request was at fault."""
    return f"The server refused the request. Its log has the reason under request id {request_id}."


# Tracebacks, files of the server, Python's own names of things. A client's own path in an error message is a loss that we take.
_INTERNAL = re.compile(
    rb"Traceback \(most recent"
    rb"|site-packages|dist-packages"
    rb"|File \\?[\"']"
    rb"|\.py\b"
    rb"| object at 0x"
    rb"|/(?:home|root|usr|opt|tmp|var|etc|proc|sys|mnt|srv|lib|app|apps|work|workspace|weights|cache|data|dev|run)/[\w.]"
    rb"|\b(?:ray|vllm|torch|jax|pydantic|starlette|fastapi|asyncio)\.[a-z_]+[.\w]*"
    rb"|ray::|errno|\[Errno"
)


def leaks_internals(body: bytes) -> bool:
    """True for an error that shows how the server is built rather than what was wrong with the request."""
    return _INTERNAL.search(body) is not None

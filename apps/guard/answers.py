"""Errors in the form of OpenAI's API: the guard's own, and the server's without what no client may see; counts in an answer."""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

logger = logging.getLogger("ray.serve")
Headers = list[tuple[bytes, bytes]]
_PROMPT = re.compile(rb'"(?:prompt|input)_tokens": ?(\d+)')
_OUTPUT = re.compile(rb'"(?:completion|output)_tokens": ?(\d+)')
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


def bad_value(message: str, param: str | None = None) -> Refusal:
    """A 400 response for a value that is not allowed."""
    return Refusal(400, message, "invalid_value", param=param)


def error_body(message: str, kind: str, code: str | int, param: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


def one_line(body: bytes) -> str:
    """An answer for a log: it may repeat what a client sent, which must not write lines of its own there."""
    return body[:_LOGGED_BYTES].decode(errors="replace").encode("unicode_escape").decode()


def _in_openai_form(body: bytes, status: int) -> bytes:
    """An error's body as it is if it has OpenAI's form; else its text, or what frameworks call `detail`, in that form."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
        return body
    detail = answer.get("detail") if isinstance(answer, dict) else body.decode(errors="replace")
    return error_body(str(detail or HTTPStatus(status).phrase)[:500], "invalid_request_error", status)


def failed(request_id: str) -> str:
    """The message in place of an internal one."""
    return f"The server could not answer. Its log has the reason under request id {request_id}."


# Tracebacks, files of the server, Python's own names of things, but not pydantic.dev, which explains what a field lacks.
# A client's own path in an error message is a loss that we take.
_INTERNAL = re.compile(
    rb"Traceback \(most recent"
    rb"|site-packages|dist-packages"
    rb"|File \\?[\"']"
    rb"|\.py\b"
    rb"| object at 0x"
    rb"|/(?:home|root|usr|opt|tmp|var|etc|proc|sys|mnt|srv|lib|app|apps|work|workspace|weights|cache|data|dev|run)/[\w.]"
    rb"|\b(?:ray|vllm|torch|jax|pydantic|starlette|fastapi|asyncio)\.(?!dev/)[a-z_]+[.\w]*"
    rb"|ray::|errno|\[Errno"
)


def leaks_internals(body: bytes) -> bool:
    """True for an error that shows how the server is built rather than what was wrong with the request."""
    return _INTERNAL.search(body) is not None


def public_error(body: bytes, status: int, request_id: str) -> bytes:
    """The app's refusal as it is, in OpenAI's form, if it only speaks of the request; without the server's inside else."""
    if status >= 500 or leaks_internals(body):
        logger.warning("guard: request %s was answered %d: %s", request_id, status, one_line(body))
        if status >= 500:
            return error_body(failed(request_id), "server_error", status)
        text = f"The server refused the request. Its log has the reason under request id {request_id}."
        return error_body(text, "invalid_request_error", status)
    return _in_openai_form(body, status)


def public_event(event: bytes, request_id: str) -> bytes:
    """An event as it is, unless it is an error that the client is not to blame for, or that shows the server's inside."""
    before, data, text = event.partition(b"data: ")
    try:
        error = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        error = None
    if not isinstance(error, dict):
        return event
    code = error.get("code")
    if isinstance(code, int) and 400 <= code < 500 and not leaks_internals(event):
        return event
    logger.warning("guard: request %s broke off: %s", request_id, one_line(event))
    return before + data + error_body(failed(request_id), "server_error", code or 500)


def aborted_event(request_id: str) -> bytes:
    """An error event in place of an end that would look like that of a whole answer."""
    logger.warning("guard: request %s was aborted by the engine", request_id)
    return b"data: " + error_body(failed(request_id), "server_error", 500) + b"\n\n"


def token_counts(body: bytes) -> tuple[int | None, int | None]:
    """The last (prompt, output) tokens in a body, if it has any. A quote in a text is escaped, so only a field can match."""
    at = body.rfind(b'"usage":')
    prompt, output = (pattern.search(body, at) for pattern in (_PROMPT, _OUTPUT)) if at >= 0 else (None, None)
    return int(prompt[1]) if prompt else None, int(output[1]) if output else None

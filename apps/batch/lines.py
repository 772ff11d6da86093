"""Lines of OpenAI's Batch files: a request as it is read and checked, an answer as it is written. Pure.

Source of both forms: https://platform.openai.com/docs/api-reference/batch
"""

import json
from dataclasses import dataclass
from typing import Any, NoReturn

PATHS = ("/v1/chat/completions", "/v1/completions")
MAX_LINE_BYTES = 16 * 1024**2
"""Longest line of an input: a request with a few large images."""


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A request of the input. `number` counts from 1 through all its files."""

    number: int
    custom_id: str
    path: str
    body: dict[str, Any]


def parse_request(line: bytes, number: int, model: str | None) -> BatchRequest:
    """Parse a line; `model` is that of a body that names none. Raises `ValueError` with the reason why a line is bad."""
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"longer than {MAX_LINE_BYTES // 1024**2} MiB")
    value = parse_object(line)
    custom_id, body, path = value.get("custom_id"), value.get("body"), value.get("url")
    if not isinstance(custom_id, str) or not custom_id:
        raise ValueError("custom_id must be a text that is not empty")
    if value.get("method") != "POST":
        raise ValueError(f'method is {value.get("method")!r}, and must be "POST"')
    if path not in PATHS:
        raise ValueError(f"url is {path!r}, and must be {' or '.join(PATHS)}")
    if not isinstance(body, dict):
        raise ValueError("body must be an object")
    if body.get("stream"):
        raise ValueError("body.stream: answers of a batch are whole; leave it out")
    if not isinstance(body.setdefault("model", model), str):
        raise ValueError("body.model must be a model's name: write it there, or give --model for all that have none")
    return BatchRequest(number, custom_id, path, body)


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises `ValueError` in words, also for what Python takes beyond JSON."""
    try:
        value = json.loads(data.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg}, column {error.colno}") from None
    except RecursionError:
        raise ValueError("not JSON that can be read: nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name}")


def answer_line(batch: str, request: BatchRequest, response: dict[str, Any] | None, error: dict[str, str] | None) -> bytes:
    """The line for an answer, in ASCII: no reader can break it elsewhere. `batch` identifies the input."""
    id = f"{batch}_{request.number:08}"
    return json.dumps({"id": id, "custom_id": request.custom_id, "response": response, "error": error}).encode() + b"\n"


def number_in(line: bytes, batch: str) -> int:
    """Number of the request that a line answers. Raises `ValueError` if it is not one of this batch."""
    prefix, _, number = str(parse_object(line).get("id")).rpartition("_")
    if prefix != batch:
        raise ValueError("of another input or --model")
    return int(number)


def tokens_in(response: dict[str, Any] | None, name: str) -> int | None:
    """Tokens of a kind in a response's usage, such as `completion_tokens`; None where the server counted none."""
    usage = (response or {"body": {}})["body"].get("usage")
    tokens = usage.get(name) if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else None


def is_ok(answer: dict[str, Any]) -> bool:
    """Whether the server answered the request, rather than refuse it or not respond."""
    return bool(answer["response"]) and answer["response"]["status_code"] == 200

"""Inputs of batches and what is expected of their outputs, apart from the code that is tested."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from openai.types import Completion
from openai.types.batch_error import BatchError
from openai.types.chat import ChatCompletion

ROOT = Path(__file__).resolve().parents[2]


def chat(custom_id: str, text: str, **more: Any) -> dict[str, Any]:
    body = {"model": "reverse", "messages": [{"role": "user", "content": text}], **more}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def completion(custom_id: str, text: str) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": {"model": "reverse", "prompt": text}}


def write(path: Path, lines: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def many(path: Path, count: int) -> Path:
    return write(path, (chat(f"id-{number}", f"text {number}") for number in range(count)))


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "apps.batch", *map(str, arguments)]


def run(*arguments: object, timeout: float = 120, **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=timeout, **options)


def answers(path: Path) -> dict[str, dict[str, Any]]:
    """Lines of an output by their custom_id, each checked against OpenAI's own types; no id may come twice."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    by_id = {line["custom_id"]: line for line in lines}
    assert len(by_id) == len({line["id"] for line in lines}) == len(lines)
    for line in lines:
        assert list(line) == ["id", "custom_id", "response", "error"]
        assert (line["response"] is None) != (line["error"] is None)
        if line["error"]:
            BatchError.model_validate(line["error"], strict=True)
        elif line["response"]["status_code"] == 200:
            body = line["response"]["body"]
            (ChatCompletion if body["object"] == "chat.completion" else Completion).model_validate(body)
            assert isinstance(line["response"]["request_id"], str)
    return by_id


def text_of(line: dict[str, Any]) -> str:
    choice = line["response"]["body"]["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


def assert_whole(path: Path, count: int) -> None:
    """Every request of `many` is answered once, by its own answer, in the order of the input; nothing else is left beside."""
    lines = answers(path)
    assert list(lines) == [f"id-{number}" for number in range(count)]
    assert all(text_of(line) == f"text {id.removeprefix('id-')}"[::-1] for id, line in lines.items())
    beside = {each.name for each in path.parent.iterdir() if each.name.startswith(path.stem)}
    assert beside == {path.name}

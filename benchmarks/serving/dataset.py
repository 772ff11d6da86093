"""Prompts from a file: ShareGPT's form (a JSON list of conversations) or JSONL. Lengths are counted before the test begins."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.common.errors import UserError
from benchmarks.serving.tokenizer import Tokenizer

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class Entry:
    """The messages of one request, and how many tokens its answer should have."""

    messages: list[dict[str, str]]
    prompt_tokens: int
    output_tokens: int


def read_dataset(path: Path, tokenizer: Tokenizer, output_tokens: int, maximum: int) -> list[Entry]:
    """The first `maximum` usable entries of a file.

    ShareGPT: an object has `conversations`, a list of {from, value}; the first human turn (after a system turn) is sent, and
    the answer should have as many tokens as the one beside it. JSONL: `prompt` or `messages`, and `max_tokens` or
    `output_tokens` where the argument `output_tokens` is not right for it.

    Raises:
        UserError: the file cannot be read, or nothing in it can be used; with the line or the number of the entry.
    """
    try:
        text = path.read_text()
        records = json.loads(text) if text.lstrip().startswith("[") else list(_lines(path, text))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"--dataset {path}: {error}") from error
    entries: list[Entry] = []
    for number, record in enumerate(records, 1):
        if len(entries) == maximum:
            break
        if entry := _entry(f"{path}, entry {number}", record, tokenizer, output_tokens):
            entries.append(entry)
    if not entries:
        raise UserError(f"--dataset {path}: no entry with a human turn, a prompt or messages in it")
    return entries


def _lines(path: Path, text: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: {error}") from error


def _entry(where: str, record: Any, tokenizer: Tokenizer, output_tokens: int) -> Entry | None:
    try:
        if "conversations" in record:
            messages, answer = _sharegpt(record["conversations"])
            wanted = tokenizer.count(answer) if answer else output_tokens
        else:
            messages = record.get("messages") or [{"role": "user", "content": record["prompt"]}]
            wanted = int(record.get("max_tokens") or record.get("output_tokens") or output_tokens)
        if not messages or not all(isinstance(message["content"], str) for message in messages):
            return None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{where}: give conversations, messages or prompt ({type(error).__name__}: {error})") from error
    return Entry(messages, sum(tokenizer.count(message["content"]) for message in messages), max(1, wanted))


def _sharegpt(turns: list[dict[str, str]]) -> tuple[list[dict[str, str]], str]:
    """Messages up to the first human turn, and the answer to it; no messages where no human speaks."""
    messages = []
    for number, turn in enumerate(turns):
        role = _ROLES.get(turn["from"])
        if role in ("system", "user"):
            messages.append({"role": role, "content": turn["value"]})
        if role == "user":
            answer = turns[number + 1]["value"] if number + 1 < len(turns) else ""
            return messages, answer
    return [], ""

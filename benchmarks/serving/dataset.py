"""Datasets of prompts: ShareGPT's form (a JSON list of conversations) or JSONL. Lengths are counted before the load begins."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.common.errors import UserError
from benchmarks.serving.tokenizer import Tokenizer

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class DatasetTurn:
    """What is added to a conversation before one request, and how many tokens its answer should have."""

    messages: list[dict[str, Any]]
    tokens: int
    output_tokens: int
    shared_tokens: int | None = None
    """Tokens at the beginning that others have, too, as the file declares; None: as many as are found."""


def read_dataset(path: Path, tokenizer: Tokenizer, output_tokens: int, maximum: int) -> list[list[DatasetTurn]]:
    """The turns of the first `maximum` usable entries of a file.

    ShareGPT: an object has `conversations`, a list of {from, value}; each human turn is a request, and its answer should have
    as many tokens as the one in the file. JSONL: `prompt` or `messages`, `max_tokens` or `output_tokens` where the argument
    `output_tokens` is not right for it, and `shared_prefix_tokens` where the file knows it. Raises `UserError`, with the line
    or the number of the entry, if the file cannot be read or nothing in it can be used.
    """
    try:
        text = path.read_text()
        records = json.loads(text) if text.lstrip().startswith("[") else list(_lines(path, text))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"--dataset {path}: {error}") from error
    entries: list[list[DatasetTurn]] = []
    for number, record in enumerate(records, 1):
        if len(entries) == maximum:
            break
        if turns := _turns(f"{path}, entry {number}", record, tokenizer, output_tokens):
            entries.append(turns)
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


def _turns(where: str, record: Any, tokenizer: Tokenizer, output_tokens: int) -> list[DatasetTurn]:
    try:
        if "conversations" in record:
            return list(_sharegpt(record["conversations"], tokenizer, output_tokens))
        messages = record.get("messages") or [{"role": "user", "content": record["prompt"]}]
        wanted = int(record.get("max_tokens") or record.get("output_tokens") or output_tokens)
        if not all(isinstance(message["content"], str) for message in messages):
            return []
        tokens = sum(tokenizer.count(message["content"]) for message in messages)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{where}: give conversations, messages or prompt ({type(error).__name__}: {error})") from error
    return [DatasetTurn(messages, tokens, max(1, wanted), record.get("shared_prefix_tokens"))]


def _sharegpt(turns: list[dict[str, str]], tokenizer: Tokenizer, output_tokens: int) -> Iterator[DatasetTurn]:
    """A turn for each time that a human speaks; the system's message goes before the first."""
    messages: list[dict[str, Any]] = []
    for number, turn in enumerate(turns):
        role = _ROLES.get(turn["from"])
        if role in ("system", "user"):
            messages.append({"role": role, "content": turn["value"]})
        if role == "user":
            answer = turns[number + 1]["value"] if number + 1 < len(turns) else ""
            tokens = sum(tokenizer.count(message["content"]) for message in messages)
            yield DatasetTurn(messages, tokens, max(1, tokenizer.count(answer) if answer else output_tokens))
            messages = []

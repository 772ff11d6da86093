"""The conversations of a load: synthetic and seeded, each prompt of its own, or taken from a dataset in its order.

A dataset is a file in ShareGPT's form (a JSON list of conversations) or JSONL. Its lengths are counted before the load begins.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from apps.common.errors import UserError
from benchmarks.serving.profiles import ANSWER_SCHEMA, Profile
from benchmarks.serving.request import Request, Response
from benchmarks.serving.tokenizer import Tokenizer

_DRAWN = 65_536
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_encode = msgspec.json.Encoder().encode


class Conversation(Protocol):
    """Requests one after the other."""

    keep_text: bool

    def next(self, last: Response | None) -> Request | None:
        """The next request, after the response to the last one; None at the end."""


class RequestFactory:
    """Makes the requests of one model and profile."""

    def __init__(self, model: str, profile: Profile) -> None:
        self._exact = not profile.schema_asked
        self._common: dict[str, Any] = {"model": model, "temperature": 0, "stream": True}
        self._common["stream_options"] = {"include_usage": True}
        if profile.schema_asked:
            schema = {"name": "answer", "schema": ANSWER_SCHEMA, "strict": True}
            self._common["response_format"] = {"type": "json_schema", "json_schema": schema}
        else:
            self._common["ignore_eos"] = True

    def make(
        self, prompt: str | list[dict[str, str]], tokens: int, output: int, shared: int = 0, earlier_turns: int = 0
    ) -> Request:
        """A completion of a text, or a chat of messages; lengths in tokens."""
        kind = "prompt" if isinstance(prompt, str) else "messages"
        body = _encode({**self._common, kind: prompt, "max_tokens": output})
        return Request(body, tokens, output, self._exact, shared, earlier_turns)


class Texts:
    """Texts of an exact number of tokens, none of which begins like another: the first four words count up."""

    def __init__(self, words: Sequence[str], seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._words = [words[index] for index in self._random.permutation(len(words))]
        self._number = 0
        self._drawn = self._draw()

    def next(self, tokens: int) -> str:
        """A text of `tokens` tokens, at least 4."""
        count, self._number, head = len(self._words), self._number + 1, []
        number = self._number
        for _ in range(4):
            number, digit = divmod(number, count)
            head.append(self._words[digit])
        return " ".join([*head, *islice(self._drawn, tokens - 4)])

    def _draw(self) -> Iterator[str]:
        while True:  # many at once: a draw has its price
            yield from map(self._words.__getitem__, self._random.integers(0, len(self._words), _DRAWN).tolist())

    def length(self, mean: int, spread: float) -> int:
        shortest, longest = round(mean * (1 - spread)), round(mean * (1 + spread))
        return max(4, int(self._random.integers(shortest, longest + 1)))


class SyntheticConversation:
    """One conversation of a profile without a dataset."""

    def __init__(self, factory: RequestFactory, profile: Profile, texts: Texts, prefix: str) -> None:
        self._factory, self._profile, self._texts, self._prefix = factory, profile, texts, prefix
        self._messages: list[dict[str, str]] = [{"role": "system", "content": prefix}] if prefix else []
        self._tokens = self._shared = profile.shared_prefix_tokens
        self._turns = 0
        self.keep_text = profile.turns > 1 or profile.schema_asked

    def next(self, last: Response | None) -> Request | None:
        profile = self._profile
        if self._turns == profile.turns:
            return None
        if last:
            self._add_response(last)
        tokens = self._texts.length(profile.prompt_tokens, profile.spread)
        text = self._texts.next(tokens)
        self._tokens += tokens
        self._turns += 1
        self._messages.append({"role": "user", "content": text})
        prompt = f"{self._prefix} {text}".lstrip() if profile.api == "completions" else self._messages
        return self._factory.make(prompt, self._tokens, profile.output_tokens, self._shared, self._turns - 1)

    def _add_response(self, last: Response) -> None:
        self._messages.append({"role": "assistant", "content": last.text})
        assert last.usage
        self._tokens += last.usage.completion_tokens
        self._shared = last.usage.prompt_tokens + last.usage.completion_tokens


class DatasetConversation:
    """One request with an entry of a dataset."""

    keep_text = False

    def __init__(self, request: Request) -> None:
        self._request: Request | None = request

    def next(self, last: Response | None) -> Request | None:  # noqa: ARG002 - there is no second request
        request, self._request = self._request, None
        return request


def synthetic(model: str, profile: Profile, texts: Texts) -> Iterator[Conversation]:
    """Conversations without end."""
    factory = RequestFactory(model, profile)
    prefix = texts.next(max(4, profile.shared_prefix_tokens)) if profile.shared_prefix_tokens else ""
    while True:
        yield SyntheticConversation(factory, profile, texts, prefix)


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


def from_dataset(model: str, profile: Profile, entries: Sequence[Entry]) -> Iterator[Conversation]:
    """A conversation for each entry; then it ends."""
    factory = RequestFactory(model, profile)
    for entry in entries:
        text = "\n".join(message["content"] for message in entry.messages)
        prompt = text if profile.api == "completions" else entry.messages
        turns = 0 if profile.api == "completions" else len(entry.messages) - 1
        yield DatasetConversation(factory.make(prompt, entry.prompt_tokens, entry.output_tokens, earlier_turns=turns))

"""The conversations of a load: synthetic and seeded, each prompt of its own, or taken from a dataset in its order."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import msgspec
import numpy as np

from benchmarks.serving.dataset import Entry
from benchmarks.serving.profiles import ANSWER_SCHEMA, Profile
from benchmarks.serving.request import Request, Response

_DRAWN = 65_536
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


def from_dataset(model: str, profile: Profile, entries: Sequence[Entry]) -> Iterator[Conversation]:
    """A conversation for each entry; then it ends."""
    factory = RequestFactory(model, profile)
    for entry in entries:
        text = "\n".join(message["content"] for message in entry.messages)
        prompt = text if profile.api == "completions" else entry.messages
        turns = 0 if profile.api == "completions" else len(entry.messages) - 1
        yield DatasetConversation(factory.make(prompt, entry.prompt_tokens, entry.output_tokens, earlier_turns=turns))

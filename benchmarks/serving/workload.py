"""Conversations to be had with the server: seeded, each prompt of its own, or taken from a dataset in its order."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import msgspec
import numpy as np

from benchmarks.serving.answer import Answer, Asked
from benchmarks.serving.dataset import Entry
from benchmarks.serving.profiles import ANSWER_SCHEMA, Profile

_DRAWN = 65_536
_encode = msgspec.json.Encoder().encode


class Conversation(Protocol):
    """Requests one after the other."""

    keep_text: bool

    def next(self, last: Answer | None) -> Asked | None:
        """The next request, after the answer to the last one; None at the end."""


class Requests:
    """Bodies of requests for one model and profile."""

    def __init__(self, model: str, profile: Profile) -> None:
        self._profile = profile
        self._common: dict[str, Any] = {"model": model, "temperature": 0, "stream": True}
        self._common["stream_options"] = {"include_usage": True}
        if profile.schema_asked:
            schema = {"name": "answer", "schema": ANSWER_SCHEMA, "strict": True}
            self._common["response_format"] = {"type": "json_schema", "json_schema": schema}
        else:
            self._common["ignore_eos"] = True

    def chat(self, messages: list[dict[str, str]], tokens: int, output: int, shared: int, turns: int = 0) -> Asked:
        return self._asked({"messages": messages}, tokens, output, shared, turns)

    def completion(self, prompt: str, tokens: int, output: int, shared: int, turns: int = 0) -> Asked:
        return self._asked({"prompt": prompt}, tokens, output, shared, turns)

    def _asked(self, prompt: dict[str, Any], tokens: int, output: int, shared: int, turns: int) -> Asked:
        body = _encode({**self._common, **prompt, "max_tokens": output})
        return Asked(body, tokens, output, exact=not self._profile.schema_asked, shared_tokens=shared, earlier_turns=turns)


class Texts:
    """Text of exactly so many tokens, none of which begins like another: the first four words count up."""

    def __init__(self, words: Sequence[str], seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._words = [words[index] for index in self._random.permutation(len(words))]
        self._number = 0
        self._drawn = self._draw()

    def next(self, tokens: int) -> str:
        """At least 4 tokens."""
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
        least, most = round(mean * (1 - spread)), round(mean * (1 + spread))
        return max(4, int(self._random.integers(least, most + 1)))


class Synthetic:
    """One conversation of a profile without a dataset."""

    def __init__(self, requests: Requests, profile: Profile, texts: Texts, prefix: str) -> None:
        self._requests, self._profile, self._texts, self._prefix = requests, profile, texts, prefix
        self._messages: list[dict[str, str]] = [{"role": "system", "content": prefix}] if prefix else []
        self._said = self._shared = profile.shared_prefix_tokens
        self._turns = 0
        self.keep_text = profile.turns > 1 or profile.schema_asked

    def next(self, last: Answer | None) -> Asked | None:
        if self._turns == self._profile.turns:
            return None
        self._turns += 1
        if last:
            self._hear(last)
        tokens = self._texts.length(self._profile.prompt_tokens, self._profile.spread)
        text, shared = self._texts.next(tokens), self._shared
        self._said += tokens
        if self._profile.api == "completions":
            prompt = f"{self._prefix} {text}" if self._prefix else text
            return self._requests.completion(prompt, self._said, self._profile.output_tokens, shared)
        self._messages.append({"role": "user", "content": text})
        return self._requests.chat(self._messages, self._said, self._profile.output_tokens, shared, self._turns - 1)

    def _hear(self, last: Answer) -> None:
        self._messages.append({"role": "assistant", "content": last.text})
        assert last.usage
        self._said += last.usage.completion_tokens
        self._shared = last.usage.prompt_tokens + last.usage.completion_tokens


class Given:
    """One entry of a dataset; its turns come one after the other, with the server's own answers between them."""

    def __init__(self, requests: Requests, entry: Entry, api: str) -> None:
        self._requests, self._entry, self._api = requests, entry, api
        self.keep_text = False
        self._asked = False

    def next(self, last: Answer | None) -> Asked | None:  # noqa: ARG002 - of one request
        if self._asked:
            return None
        self._asked = True
        entry = self._entry
        if self._api == "completions":
            prompt = "\n".join(message["content"] for message in entry.messages)
            return self._requests.completion(prompt, entry.prompt_tokens, entry.output_tokens, 0)
        return self._requests.chat(entry.messages, entry.prompt_tokens, entry.output_tokens, 0, len(entry.messages) - 1)


def synthetic(model: str, profile: Profile, texts: Texts) -> Iterator[Conversation]:
    """Conversations without end."""
    requests = Requests(model, profile)
    prefix = texts.next(max(4, profile.shared_prefix_tokens)) if profile.shared_prefix_tokens else ""
    while True:
        yield Synthetic(requests, profile, texts, prefix)


def from_dataset(model: str, profile: Profile, entries: Sequence[Entry]) -> Iterator[Conversation]:
    """A conversation for each entry; then it ends."""
    requests = Requests(model, profile)
    for entry in entries:
        yield Given(requests, entry, profile.api)

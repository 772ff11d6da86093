"""The conversations of a load, each found by its number: so several processes can share a load, and no prompt comes twice.

They are synthetic and seeded, or have the prompts of a dataset, or the lengths and shared beginnings of a trace.
"""

from collections.abc import Sequence
from hashlib import blake2b
from random import Random
from typing import Any, Protocol

import msgspec

from benchmarks.serving.dataset import Entry
from benchmarks.serving.images import image
from benchmarks.serving.profiles import ANSWER_SCHEMA, Profile
from benchmarks.serving.records import blocks_of
from benchmarks.serving.request import Request, Response
from benchmarks.serving.trace import BLOCK_TOKENS, TraceRow

_POOL = 65_536  # words drawn once, that every text takes a piece of
_encode = msgspec.json.Encoder().encode


class Conversation(Protocol):
    """Requests one after the other."""

    keep_text: bool

    def next(self, last: Response | None) -> Request | None:
        """The next request, after the response to the last one; None at the end."""


class Workload(Protocol):
    """Conversations by their numbers, from 0."""

    def conversation(self, number: int) -> Conversation | None:
        """None where there are no more."""


class RequestFactory:
    """Makes the requests of one model and profile."""

    def __init__(self, model: str, profile: Profile) -> None:
        self._profile = profile
        self._common: dict[str, Any] = {"model": model, "temperature": 0, "stream": True}
        self._common["stream_options"] = {"include_usage": True}
        if profile.schema_asked:
            schema = {"name": "answer", "schema": ANSWER_SCHEMA, "strict": True}
            self._common["response_format"] = {"type": "json_schema", "json_schema": schema}
        else:
            self._common["ignore_eos"] = True

    def make(
        self, messages: list[dict[str, Any]], tokens: int, output: int, shared: int | None = 0, *, random: Random | None = None
    ) -> Request:
        """A chat of messages, or a completion of their texts; lengths in tokens. `random` decides who hangs up."""
        chat, profile = self._profile.api == "chat", self._profile
        prompt = messages if chat else " ".join(message["content"] for message in messages)
        body = _encode({**self._common, "messages" if chat else "prompt": prompt, "max_tokens": output})
        text = "\x1e".join(_text(message["content"]) for message in messages).encode()
        hangs_up = random is not None and random.random() < profile.cancelled
        return Request(
            body,
            tokens,
            output,
            exact=not profile.schema_asked,
            shared_tokens=shared,
            earlier_turns=sum(message["role"] == "assistant" for message in messages),
            digest=blake2b(text, digest_size=8).hexdigest(),
            blocks=blocks_of(text),
            shape="" if profile.images else " ".join(message["role"] for message in messages) if chat else "text",
            cancel_after=random.randint(1, max(1, output // 2)) if hangs_up and random else None,
            schema=profile.schema_asked,
        )


def _text(content: Any) -> str:
    return content if isinstance(content, str) else _encode(content).decode()


class Texts:
    """Texts of an exact number of tokens, none of which begins like another: their first four words are their number."""

    def __init__(self, words: Sequence[str], seed: int) -> None:
        random = Random(seed)  # noqa: S311 - not for secrets
        self._words = random.sample(list(words), len(words))
        self._pool = random.choices(self._words, k=_POOL)
        self._seed = seed

    def text(self, number: int, tokens: int) -> str:
        """The text of that number with `tokens` tokens, at least 4."""
        count, rest, head = len(self._words), number, []
        for _ in range(4):
            rest, digit = divmod(rest, count)
            head.append(self._words[digit])
        start, wanted = self.random(number).randrange(_POOL), tokens - 4
        filling = self._pool[start : start + wanted]
        while len(filling) < wanted:
            filling += self._pool[: wanted - len(filling)]
        return " ".join([*head, *filling])

    def random(self, number: int) -> Random:
        """The draws that belong to a number."""
        return Random(self._seed << 40 | number)  # noqa: S311


class SyntheticConversation:
    """One conversation of a profile without a dataset."""

    def __init__(self, factory: RequestFactory, profile: Profile, texts: Texts, number: int) -> None:
        self._factory, self._profile, self._texts = factory, profile, texts
        self._first_text = profile.prefix_groups + number * profile.turns
        self._random = texts.random(self._first_text)
        self._tokens = self._shared = profile.shared_prefix_tokens
        self._messages: list[dict[str, Any]] = []
        if self._tokens:
            prefix = texts.text(number % profile.prefix_groups, max(4, self._tokens))
            self._messages.append({"role": "system", "content": prefix})
        self._turns = 0
        self.keep_text = profile.turns > 1 or profile.schema_asked

    def next(self, last: Response | None) -> Request | None:
        profile, random = self._profile, self._random
        if self._turns == profile.turns:
            return None
        if last:
            self._add_response(last)
        mean, spread = profile.prompt_tokens, profile.spread
        tokens = max(4, random.randint(round(mean * (1 - spread)), round(mean * (1 + spread))))
        text = self._texts.text(self._first_text + self._turns, tokens)
        self._tokens += tokens
        self._turns += 1
        images = [{"type": "image_url", "image_url": {"url": image(random)}} for _ in range(profile.images)]
        self._messages.append({"role": "user", "content": [{"type": "text", "text": text}, *images] if images else text})
        return self._factory.make(self._messages, self._tokens, profile.output_tokens, self._shared, random=random)

    def _add_response(self, last: Response) -> None:
        self._messages.append({"role": "assistant", "content": last.text})
        assert last.usage
        self._tokens += last.usage.completion_tokens
        self._shared = last.usage.prompt_tokens + last.usage.completion_tokens


class DatasetConversation:
    """The turns of a dataset's entry, each after the server's own answer to the one before."""

    def __init__(self, factory: RequestFactory, entry: Entry, turns: int, random: Random) -> None:
        self._factory, self._random = factory, random
        self._turns = iter(entry.turns[:turns])
        self._messages: list[dict[str, Any]] = []
        self._tokens = 0
        self.keep_text = len(entry.turns[:turns]) > 1

    def next(self, last: Response | None) -> Request | None:
        turn = next(self._turns, None)
        if turn is None:
            return None
        if last and last.usage:
            self._messages.append({"role": "assistant", "content": last.text})
            self._tokens += last.usage.completion_tokens
        self._messages += turn.messages
        self._tokens += turn.tokens
        shared = turn.shared_tokens if last is None else None
        return self._factory.make(self._messages, self._tokens, turn.output_tokens, shared, random=self._random)


class Synthetic:
    """Conversations of a profile, without end."""

    def __init__(self, model: str, profile: Profile, texts: Texts) -> None:
        self._factory, self._profile, self._texts = RequestFactory(model, profile), profile, texts

    def conversation(self, number: int) -> Conversation:
        return SyntheticConversation(self._factory, self._profile, self._texts, number)


class FromDataset:
    """A conversation for each entry."""

    def __init__(self, model: str, profile: Profile, entries: Sequence[Entry], seed: int) -> None:
        self._factory, self._entries = RequestFactory(model, profile), entries
        self._turns, self._seed = profile.turns, seed

    def conversation(self, number: int) -> Conversation | None:
        if number >= len(self._entries):
            return None
        random = Random(self._seed << 40 | number)  # noqa: S311
        return DatasetConversation(self._factory, self._entries[number], self._turns, random)


class FromTrace:
    """A request for each row of a trace, in its lengths; rows that share the ids of blocks begin alike."""

    def __init__(self, model: str, profile: Profile, rows: Sequence[TraceRow], texts: Texts) -> None:
        self._factory, self._texts = RequestFactory(model, profile), texts
        self._rows = rows
        ids = dict.fromkeys(block for row in rows for block in row.blocks)
        self._block_numbers = {block: len(rows) + number for number, block in enumerate(ids)}

    def conversation(self, number: int) -> Conversation | None:
        if number >= len(self._rows):
            return None
        row = self._rows[number]
        assert row.prompt_tokens
        assert row.output_tokens
        text, tokens = self._prompt(number, row, row.prompt_tokens)
        request = self._factory.make(
            [{"role": "user", "content": text}],
            tokens,
            row.output_tokens,
            None if row.blocks else 0,
            random=self._texts.random(number),
        )
        return SingleRequest(request)

    def _prompt(self, number: int, row: TraceRow, tokens: int) -> tuple[str, int]:
        """The blocks' texts one after the other, the last one cut; or a text of its own."""
        if not row.blocks:
            return self._texts.text(number, max(4, tokens)), max(4, tokens)
        words: list[str] = []
        for block in row.blocks:
            words += self._texts.text(self._block_numbers[block], BLOCK_TOKENS).split(" ")
        return " ".join(words[:tokens]), min(tokens, len(words))


class SingleRequest:
    """A conversation of one request."""

    keep_text = False

    def __init__(self, request: Request) -> None:
        self._request: Request | None = request

    def next(self, last: Response | None) -> Request | None:  # noqa: ARG002 - there is no second request
        request, self._request = self._request, None
        return request


class Mixture:
    """Conversations of several profiles by their weights."""

    def __init__(self, workloads: Sequence[Workload], weights: Sequence[float], seed: int) -> None:
        self._workloads, self._weights, self._seed = workloads, weights, seed

    def conversation(self, number: int) -> Conversation | None:
        random = Random(self._seed << 40 | number)  # noqa: S311
        [workload] = random.choices(self._workloads, self._weights)
        return workload.conversation(number)

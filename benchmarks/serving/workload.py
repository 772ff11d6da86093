"""The conversations of a load, each found by its number: so several processes can share a load, and no prompt comes twice.

They are synthetic and seeded, or have the prompts of a dataset, or the lengths and shared beginnings of a trace.
"""

import base64
import struct
import zlib
from collections.abc import Generator, Sequence
from hashlib import blake2b
from random import Random
from typing import Any, Protocol

import msgspec

from benchmarks.serving.dataset import DatasetTurn
from benchmarks.serving.profiles import ANSWER_SCHEMA, Profile
from benchmarks.serving.records import blocks_of
from benchmarks.serving.request import Request, Response
from benchmarks.serving.trace import BLOCK_TOKENS, TraceRow

_POOL = 65_536  # words drawn once, that every text takes a piece of
_SIDE = 224  # pixels of an image
_encode = msgspec.json.Encoder().encode

Conversation = Generator[Request, Response, None]
"""Yields one request after the other; it is sent the response to each, with its usage and, where there are turns, its text."""


class Workload(Protocol):
    """Conversations by their numbers, from 0."""

    def conversation(self, number: int) -> Conversation | None:
        """None where there are no more."""


def draws(seed: int, number: int) -> Random:
    """The random draws that belong to a number."""
    return Random(seed << 40 | number)  # noqa: S311 - not for secrets


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
        self, messages: list[dict[str, Any]], tokens: int, output: int, random: Random, *, shared: int | None = 0
    ) -> Request:
        """A chat of messages, or a completion of their texts; lengths in tokens. `random` decides who hangs up."""
        chat, profile = self._profile.api == "chat", self._profile
        prompt = messages if chat else " ".join(message["content"] for message in messages)
        body = _encode({**self._common, "messages" if chat else "prompt": prompt, "max_tokens": output})
        text = "\x1e".join(_text(message["content"]) for message in messages).encode()
        return Request(
            body,
            tokens,
            output,
            shared_tokens=shared,
            earlier_turns=sum(message["role"] == "assistant" for message in messages),
            digest=blake2b(text, digest_size=8).hexdigest(),
            blocks=blocks_of(text),
            shape="" if profile.images else " ".join(message["role"] for message in messages) if chat else "text",
            cancel_after=random.randint(1, max(1, output // 2)) if random.random() < profile.cancelled else None,
            schema=profile.schema_asked,
            keep_text=profile.schema_asked or profile.turns > 1,
        )


def _text(content: Any) -> str:
    return content if isinstance(content, str) else _encode(content).decode()


class Texts:
    """Texts of an exact number of tokens, none of which begins like another: their first four words are their number."""

    def __init__(self, words: Sequence[str], seed: int) -> None:
        random = Random(seed)  # noqa: S311 - not for secrets
        self._words = random.sample(list(words), len(words))
        self._pool = random.choices(self._words, k=_POOL)
        self.seed = seed

    def text(self, number: int, tokens: int) -> str:
        """The text of that number with `tokens` tokens, at least 4."""
        count, rest, head = len(self._words), number, []
        for _ in range(4):
            rest, digit = divmod(rest, count)
            head.append(self._words[digit])
        start, wanted = draws(self.seed, number).randrange(_POOL), tokens - 4
        filling = self._pool[start : start + wanted]
        while len(filling) < wanted:
            filling += self._pool[: wanted - len(filling)]
        return " ".join([*head, *filling])


class Synthetic:
    """Conversations of a profile, without end."""

    def __init__(self, model: str, profile: Profile, texts: Texts) -> None:
        self._factory, self._profile, self._texts = RequestFactory(model, profile), profile, texts

    def conversation(self, number: int) -> Conversation:
        profile, texts = self._profile, self._texts
        first_text = profile.prefix_groups + number * profile.turns
        random = draws(texts.seed, first_text)
        shortest, longest = (round(profile.prompt_tokens * share) for share in (1 - profile.spread, 1 + profile.spread))
        tokens = shared = profile.shared_prefix_tokens
        messages: list[dict[str, Any]] = []
        if tokens:
            messages.append({"role": "system", "content": texts.text(number % profile.prefix_groups, max(4, tokens))})
        for turn in range(profile.turns):
            added = max(4, random.randint(shortest, longest))
            text = texts.text(first_text + turn, added)
            images = [{"type": "image_url", "image_url": {"url": _image(random)}} for _ in range(profile.images)]
            messages.append({"role": "user", "content": [{"type": "text", "text": text}, *images] if images else text})
            tokens += added
            response = yield self._factory.make(messages, tokens, profile.output_tokens, random, shared=shared)
            assert response.usage
            messages.append({"role": "assistant", "content": response.text})
            tokens += response.usage.completion_tokens
            shared = response.usage.prompt_tokens + response.usage.completion_tokens


def _image(random: Random) -> str:
    """A PNG of random pixels as a data URL: as large as it can be, and unknown to every cache."""
    pixels = b"".join(b"\0" + random.randbytes(3 * _SIDE) for _ in range(_SIDE))
    parts = ((b"IHDR", struct.pack(">2I5B", _SIDE, _SIDE, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(pixels, 1)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts)
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()


class FromDataset:
    """A conversation for each entry; each turn comes after the server's own answer to the one before."""

    def __init__(self, model: str, profile: Profile, entries: Sequence[Sequence[DatasetTurn]], seed: int) -> None:
        self._factory, self._entries = RequestFactory(model, profile), entries
        self._turns, self._seed = profile.turns, seed

    def conversation(self, number: int) -> Conversation | None:
        return self._converse(number) if number < len(self._entries) else None

    def _converse(self, number: int) -> Conversation:
        random, tokens = draws(self._seed, number), 0
        messages: list[dict[str, Any]] = []
        for turn in self._entries[number][: self._turns]:
            shared = None if messages else turn.shared_tokens
            messages += turn.messages
            tokens += turn.tokens
            response = yield self._factory.make(messages, tokens, turn.output_tokens, random, shared=shared)
            assert response.usage
            messages.append({"role": "assistant", "content": response.text})
            tokens += response.usage.completion_tokens


class FromTrace:
    """A request for each row of a trace, in its lengths; rows that share the ids of blocks begin alike."""

    def __init__(self, model: str, profile: Profile, rows: Sequence[TraceRow], texts: Texts) -> None:
        self._factory, self._texts, self._rows = RequestFactory(model, profile), texts, rows
        ids = dict.fromkeys(block for row in rows for block in row.blocks)
        self._block_numbers = {block: len(rows) + number for number, block in enumerate(ids)}

    def conversation(self, number: int) -> Conversation | None:
        return self._converse(number) if number < len(self._rows) else None

    def _converse(self, number: int) -> Conversation:
        row, texts = self._rows[number], self._texts
        assert row.prompt_tokens
        assert row.output_tokens
        if row.blocks:  # their texts one after the other, the last one cut
            blocks = (texts.text(self._block_numbers[block], BLOCK_TOKENS) for block in row.blocks)
            words = " ".join(blocks).split(" ")[: row.prompt_tokens]
        else:
            words = texts.text(number, max(4, row.prompt_tokens)).split(" ")
        messages, shared = [{"role": "user", "content": " ".join(words)}], None if row.blocks else 0
        yield self._factory.make(messages, len(words), row.output_tokens, draws(texts.seed, number), shared=shared)


class Mixture:
    """Conversations of several profiles by their weights."""

    def __init__(self, workloads: Sequence[Workload], weights: Sequence[float], seed: int) -> None:
        self._workloads, self._weights, self._seed = workloads, weights, seed

    def conversation(self, number: int) -> Conversation | None:
        [workload] = draws(self._seed, number).choices(self._workloads, self._weights)
        return workload.conversation(number)

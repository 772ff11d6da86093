"""Conversations with a system prompt that others share, and clients that hold them one after the other."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx

MODEL = "google/gemma-4-31B-it"
_SYSTEMS, _SYSTEM_WORDS, _ZIPF = 60, 3000, 1.1
_TURNS, _QUESTION_WORDS, _ANSWER_TOKENS = 10, (300, 900), 24
_TIMEOUT_S = 120

Message = dict[str, str]


@dataclass
class Outcome:
    """What came of a load. Seconds of this machine's clock."""

    ttfts: list[float] = field(default_factory=list)
    prompts: list[list[Message]] = field(default_factory=list)
    """In the order in which they were sent."""
    duration: float = 0.0


class Conversations:
    """Conversations in the order in which they begin: the same ones for each way of routing."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._systems = [f"System {number}. {self._words(_SYSTEM_WORDS)}" for number in range(_SYSTEMS)]
        self._weights = [1 / (rank + 1) ** _ZIPF for rank in range(_SYSTEMS)]
        self._numbers = itertools.count()

    def begin(self) -> tuple[Message, list[Message]]:
        """Return (the system's message, the user's)."""
        (system,) = self._random.choices(self._systems, self._weights)
        number = next(self._numbers)
        questions = [f"{number}.{turn} {self._words(self._random.randint(*_QUESTION_WORDS))}" for turn in range(_TURNS)]
        return {"role": "system", "content": system}, [{"role": "user", "content": question} for question in questions]

    def _words(self, count: int) -> str:
        return " ".join(f"{self._random.randrange(10**4):04}" for _ in range(count))


async def run(url: str, clients: int, seconds: float, pause_s: float) -> Outcome:
    """Hold conversations with so many clients for so long, with a pause (mean, exponential) before each turn.

    Without pauses a client's next turn would meet the server that it has just left with the fewest connections: its own.
    """
    pauses = random.Random(2)
    conversations, outcome = Conversations(seed=1), Outcome()
    began = time.perf_counter()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, trust_env=False, limits=limits) as http:

        async def client() -> None:
            while time.perf_counter() < began + seconds:
                system, questions = conversations.begin()
                messages = [system]
                for question in questions:
                    await asyncio.sleep(pauses.expovariate(1 / pause_s))
                    messages = [*messages, question]
                    outcome.prompts.append(messages)
                    answer = await _ask(http, messages, outcome.ttfts)
                    messages = [*messages, {"role": "assistant", "content": answer}]
                    if time.perf_counter() > began + seconds:
                        break

        await asyncio.gather(*(client() for _ in range(clients)))
    outcome.duration = time.perf_counter() - began
    return outcome


async def _ask(http: httpx.AsyncClient, messages: list[Message], ttfts: list[float]) -> str:
    body = {"model": MODEL, "messages": messages, "max_tokens": _ANSWER_TOKENS, "ignore_eos": True, "stream": True}
    sent, text = time.perf_counter(), ""
    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for piece in _pieces(answer):
            if not text:
                ttfts.append(time.perf_counter() - sent)
            text += piece
    return text


async def _pieces(answer: httpx.Response) -> AsyncIterator[str]:
    async for line in answer.aiter_lines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                if piece := choice["delta"].get("content"):
                    yield piece

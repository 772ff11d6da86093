"""Clients that stream while something is broken, and what they saw of it."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.e2e.emulated import MODEL

_ANSWER_S = 15  # longer without a byte is a hang
ERROR, CUT = "stream ends with an error", "connection cut in mid-stream"
RETRY, REFUSED = "503 with Retry-After", "connection refused"
_WORDS = {'error: data: {"error": {"message": ': ERROR, "503 retry-after=30 {": RETRY, "cut off": CUT, "refused": REFUSED}
"""How an outcome begins, and how a table says it."""


@dataclass(frozen=True)
class Ended:
    """A request: when it ended and when it was sent, in seconds since the load's start, and how."""

    sent_s: float
    at_s: float
    outcome: str

    @property
    def whole(self) -> bool:
        return self.outcome == "done"

    @property
    def in_words(self) -> str:
        return next((words for start, words in _WORDS.items() if self.outcome.startswith(start)), self.outcome)


@dataclass
class Load:
    """Streams from several clients, one after another each."""

    url: str
    clients: int = 4
    max_tokens: int = 100
    model: str = MODEL
    ended: list[Ended] = field(default_factory=list)
    begun: float = 0.0

    async def run(self, seconds: float, until: asyncio.Event | None = None) -> None:
        """For so long at most, or until an event."""
        self.begun, until = time.monotonic(), until or asyncio.Event()
        await asyncio.gather(*(self._client(seconds, number, until) for number in range(self.clients)))

    def now_s(self) -> float:
        return time.monotonic() - self.begun

    @property
    def lost(self) -> list[Ended]:
        return [one for one in self.ended if not one.whole]

    @property
    def saw(self) -> str:
        """For a table: what clients got instead of an answer, most frequent last."""
        found = Counter(one.in_words for one in self.lost)
        return "; ".join(words for words, _ in reversed(found.most_common()))

    @property
    def losses(self) -> str:
        """For a table: answers that broke off, and tries that were refused after that (a client tries twice a second)."""
        answers = sum(one.in_words in (ERROR, CUT) for one in self.lost)
        refused = len(self.lost) - answers
        return f"{answers} answers" + (f", {refused} refused" if refused else "") + f" of {len(self.ended)}"

    async def _client(self, seconds: float, number: int, until: asyncio.Event) -> None:
        body = {"model": self.model, "prompt": f"client {number}", "max_tokens": self.max_tokens}
        async with httpx.AsyncClient(timeout=_ANSWER_S) as http:
            while self.now_s() < seconds and not until.is_set():
                sent_s = self.now_s()
                outcome = await self._request(http, {**body, "ignore_eos": True, "stream": True})
                self.ended.append(Ended(sent_s, self.now_s(), outcome))
                if outcome != "done":
                    await asyncio.sleep(0.5)

    async def _request(self, http: httpx.AsyncClient, body: dict[str, Any]) -> str:
        try:
            async with http.stream("POST", f"{self.url}/v1/completions", json=body) as answer:
                lines = [line async for line in answer.aiter_lines() if line]
        except httpx.TimeoutException:
            return "hang"
        except httpx.ConnectError as error:
            return f"refused: {error!r}"
        except httpx.TransportError as error:
            return f"cut off: {error!r}"
        if answer.status_code != 200:
            return f"{answer.status_code} retry-after={answer.headers.get('retry-after')} {lines[-1]}"
        if failed := [line for line in lines if line.startswith('data: {"error"')]:
            return f"error: {failed[0]}"
        return "done" if lines[-1] == "data: [DONE]" else f"cut off: {lines[-1]}"


@dataclass
class Story:
    """One fault under load. `mended_s` is when what was missing came back by a person's hand; None where nobody was needed."""

    load: Load
    fault_s: float = 0.0
    mended_s: float | None = None

    @property
    def noticed_s(self) -> float | None:
        """From the fault to the first request that failed."""
        return min((one.at_s for one in self.load.lost if one.at_s > self.fault_s), default=self.fault_s) - self.fault_s or None

    @property
    def served_s(self) -> float:
        """From the fault, or from its mending, to a whole answer that was asked for after the last failure."""
        since = self.fault_s if self.mended_s is None else self.mended_s
        last = max((one.at_s for one in self.load.lost), default=since)
        return next(one.at_s for one in self.load.ended if one.whole and one.sent_s >= last) - since

    @property
    def hangs(self) -> list[Ended]:
        return [one for one in self.load.ended if one.outcome == "hang"]


def play(
    load: Load,
    fault: Callable[[], object],
    healed: Callable[[], object],
    *,
    mend: Callable[[], object] | None = None,
    beside: Load | None = None,
    seconds: float = 120,
) -> Story:
    """Do harm once answers come; mend it once a client has noticed, where it does not mend itself; end when it is healed.

    `beside` is a second load, from before the fault to the end.
    """

    async def both() -> Story:
        done = asyncio.Event()
        loads = [asyncio.create_task(one.run(4 * seconds, until=done)) for one in (load, beside) if one]
        try:
            return await _play(Story(load), fault, healed, mend, seconds)
        finally:
            done.set()
            await asyncio.gather(*loads)

    return asyncio.run(both())


async def _play(
    story: Story, fault: Callable[[], object], healed: Callable[[], object], mend: Callable[[], object] | None, seconds: float
) -> Story:
    load = story.load
    await _until(lambda: len(load.ended) >= load.clients, seconds, "the first answers")
    story.fault_s = load.now_s()
    await asyncio.to_thread(fault)
    if mend:
        await _until(lambda: any(one.at_s > story.fault_s for one in load.lost), seconds, "a client to notice")
        story.mended_s = load.now_s()
        await asyncio.to_thread(mend)
    await _until(healed, seconds, "the stack to be healed")
    whole_s = load.now_s()
    await _until(lambda: any(one.whole and one.sent_s > whole_s for one in load.ended), seconds, "an answer")
    return story


async def _until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Conditions may ask the network, so they are asked in a thread."""
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
        await asyncio.sleep(0.1)

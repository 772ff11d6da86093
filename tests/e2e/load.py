"""Clients that stream while something is broken, and the outcome of their requests."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.e2e.emulated import MODEL

_TIMEOUT_S = 15  # longer without a byte is a hang
ERROR, CUT = "stream ends with an error", "connection cut in mid-stream"
RETRY, REFUSED = "503 with Retry-After", "connection refused"
_WORDS = {'error: data: {"error": {"message": ': ERROR, "503 retry-after=30 {": RETRY, "cut off": CUT, "refused": REFUSED}
"""Start of an outcome, and its words in a table."""


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
        """Send requests until the event, or for so many seconds at most."""
        self.begun, until = time.monotonic(), until or asyncio.Event()
        await asyncio.gather(*(self._client(seconds, number, until) for number in range(self.clients)))

    def now_s(self) -> float:
        return time.monotonic() - self.begun

    @property
    def lost(self) -> list[Ended]:
        return [request for request in self.ended if not request.whole]

    @property
    def saw(self) -> str:
        """Outcomes other than a whole answer, in words for a table, most frequent last."""
        outcomes = Counter(request.in_words for request in self.lost)
        return "; ".join(words for words, _ in reversed(outcomes.most_common()))

    @property
    def losses(self) -> str:
        """Count of answers that broke off, and of tries that were refused after that (a client tries twice a second)."""
        answers = sum(request.in_words in (ERROR, CUT) for request in self.lost)
        refused = len(self.lost) - answers
        return f"{answers} answers" + (f", {refused} refused" if refused else "") + f" of {len(self.ended)}"

    async def _client(self, seconds: float, number: int, until: asyncio.Event) -> None:
        body = {"model": self.model, "prompt": f"client {number}", "max_tokens": self.max_tokens}
        async with httpx.AsyncClient(timeout=_TIMEOUT_S) as http:
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
    """One fault under load. `mended_s` is when a person's command repaired it; None where none was needed."""

    load: Load
    fault_s: float = 0.0
    mended_s: float | None = None

    @property
    def noticed_s(self) -> float | None:
        """Seconds from the fault to the first request that failed."""
        failed = (request.at_s for request in self.load.lost if request.at_s > self.fault_s)
        return min(failed, default=self.fault_s) - self.fault_s or None

    @property
    def served_s(self) -> float:
        """Seconds from the fault, or from its repair, to a whole answer to a request that was sent after the last failure."""
        since = self.fault_s if self.mended_s is None else self.mended_s
        last = max((request.at_s for request in self.load.lost), default=since)
        return next(request.at_s for request in self.load.ended if request.whole and request.sent_s >= last) - since

    @property
    def hangs(self) -> list[Ended]:
        return [request for request in self.load.ended if request.outcome == "hang"]


def play(
    load: Load,
    fault: Callable[[], object],
    healed: Callable[[], object],
    *,
    mend: Callable[[], object] | None = None,
    beside: Load | None = None,
    seconds: float = 120,
) -> Story:
    """Cause a fault once answers come; mend it once a client has noticed, where it does not heal by itself; end once healed.

    `beside` is a second load, from before the fault to the end.
    """

    async def both() -> Story:
        done = asyncio.Event()
        loads = [asyncio.create_task(clients.run(4 * seconds, until=done)) for clients in (load, beside) if clients]
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
        await _until(lambda: any(request.at_s > story.fault_s for request in load.lost), seconds, "a client to notice")
        story.mended_s = load.now_s()
        await asyncio.to_thread(mend)
    await _until(healed, seconds, "the stack to be healed")
    whole_s = load.now_s()
    await _until(lambda: any(request.whole and request.sent_s > whole_s for request in load.ended), seconds, "an answer")
    return story


async def _until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Poll in a thread, as conditions may use the network."""
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
        await asyncio.sleep(0.1)

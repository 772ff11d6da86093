"""Counts the responses of one load as they end, in all and by windows of time, and keeps none of them: memory stays bounded."""

import json
import time
from array import array
from hashlib import blake2b
from itertools import accumulate

import jsonschema
import numpy as np

from benchmarks.serving.profiles import ANSWER_SCHEMA
from benchmarks.serving.request import Response
from benchmarks.serving.result import Counts, Slo, Window

_MAX_WINDOWS = 120
_BATCH = 8192  # times that are kept before they are counted
_SAMPLES = 16  # responses whose text is kept, to be counted by the tokenizer afterwards
_ADDED_PER_REQUEST = 64  # tokens that a chat template may add
_SLACK = 2  # tokens by which the same text can differ at its seams


class Tally:
    """`start` is when the load began; all times of responses are on the same clock."""

    def __init__(self, slo: Slo, *, schema_asked: bool) -> None:
        self.start = self.end = 0.0
        self._slo, self._schema_asked = slo, schema_asked
        self.counts = Counts(good=0 if slo.is_set else None)
        self.timeline = Timeline()
        self.samples: list[Response] = []
        self._digests = array("Q")
        self._gaps: list[float] = []

    @property
    def wants_text(self) -> bool:
        return len(self.samples) < _SAMPLES

    @property
    def ended(self) -> int:
        return self.counts.completed + self.counts.errors.total()

    def add(self, response: Response) -> None:
        """Count a response, good or bad."""
        self._digests.append(int.from_bytes(blake2b(response.request.body, digest_size=8).digest()))
        window = self.timeline.at(response.intended - self.start)
        window.requests += 1
        self.end = max(self.end, response.last or time.perf_counter())
        if error := response.error or self._fault(response):
            window.errors += 1
            self.counts.errors[error] += 1
            self.counts.error_examples.setdefault(error, response.detail)
            return
        if response.text and self.wants_text:
            self.samples.append(response)
        self._count_tokens(response)
        self._add_times(response)

    def _count_gaps(self) -> None:
        self.counts.itl.add(1000 * np.array(self._gaps))
        self._gaps = []

    def finish(self) -> Counts:
        """The counts, with those that need the end of the load."""
        self._count_gaps()
        unique = len(np.unique(np.frombuffer(self._digests, np.uint64)))
        self.counts.checks.repeated_prompts = len(self._digests) - unique
        return self.counts

    def _fault(self, response: Response) -> str | None:
        """What is wrong with a complete response; None if nothing."""
        if response.first is None:
            return "no token in the answer"
        if self._schema_asked and response.finish_reason == "length":
            return "answer cut off before its end"
        if self._schema_asked:
            try:
                jsonschema.validate(json.loads(response.text), ANSWER_SCHEMA)
            except (ValueError, jsonschema.ValidationError):
                return "answer not of the schema"
        return None

    def _count_tokens(self, response: Response) -> None:
        counts, checks, usage = self.counts, self.counts.checks, response.usage
        counts.completed += 1
        checks.declared_shared_tokens += response.request.shared_tokens
        if usage is None:
            checks.without_usage += 1
            return
        counts.prompt_tokens += usage.prompt_tokens
        counts.output_tokens += usage.completion_tokens
        counts.min_prompt_tokens = min(usage.prompt_tokens, counts.min_prompt_tokens or usage.prompt_tokens)
        if usage.cached_tokens is not None:
            checks.cached_tokens = (checks.cached_tokens or 0) + usage.cached_tokens
            checks.cached_by = "usage"
        if wrong := miscount(response):
            checks.wrong_counts += 1
            checks.wrong_count_example = checks.wrong_count_example or wrong

    def _add_times(self, response: Response) -> None:
        assert response.first is not None
        assert response.last is not None
        window = self.timeline.at(response.intended - self.start)
        times: dict[str, float | None] = {
            "ttft": 1000 * (response.first - response.intended),
            "e2e": 1000 * (response.last - response.intended),
            "tpot": _tpot_ms(response),
        }
        for name, value in times.items():
            if value is not None:
                getattr(self.counts, name).add_one(value)
                getattr(window, name).add_one(value)
        self._gaps += response.gaps
        if len(self._gaps) > _BATCH:
            self._count_gaps()
        if self._is_good(times):
            window.good += 1
            self.counts.good = None if self.counts.good is None else self.counts.good + 1
        self.timeline.add_tokens(response, self.start)

    def _is_good(self, times: dict[str, float | None]) -> bool:
        limits = (("ttft", self._slo.ttft_ms), ("tpot", self._slo.tpot_ms), ("e2e", self._slo.e2e_ms))
        return all(limit is None or (times[name] or 0.0) <= limit for name, limit in limits)


def miscount(response: Response) -> str | None:
    """How the server's count contradicts the request and the response; None where it does not."""
    request, usage = response.request, response.usage
    assert usage
    if request.exact and usage.completion_tokens != request.output_tokens:
        return f"usage reports {usage.completion_tokens} output tokens, {request.output_tokens} were requested"
    if usage.completion_tokens > request.output_tokens:
        return f"usage reports {usage.completion_tokens} output tokens, at most {request.output_tokens} were requested"
    if response.events > usage.completion_tokens:
        return f"usage reports {usage.completion_tokens} output tokens, {response.events} events with text came"
    # The server's answers to earlier turns are read again, as fewer tokens (special ones have no text) or as more.
    read_again = request.prompt_tokens // 2 if request.earlier_turns else 0
    minimum = request.prompt_tokens // 2 if request.earlier_turns else request.prompt_tokens - _SLACK
    maximum = request.prompt_tokens + read_again + (1 + request.earlier_turns) * _ADDED_PER_REQUEST
    if not minimum <= usage.prompt_tokens <= maximum:
        return f"usage reports {usage.prompt_tokens} prompt tokens, {request.prompt_tokens} were sent"
    return None


def _tpot_ms(response: Response) -> float | None:
    """Time for each token after the first; None for a response of one token."""
    if response.usage is None or response.usage.completion_tokens < 2 or response.first is None or response.last is None:
        return None
    return 1000 * (response.last - response.first) / (response.usage.completion_tokens - 1)


class Timeline:
    """Windows of a run's time, at most a fixed number: when they run out, each two become one. Offsets are seconds."""

    def __init__(self) -> None:
        self.window_s = 0.25
        self._windows: list[Window] = []
        self._came: list[float] = []
        self._weights: list[tuple[float, int]] = []

    def at(self, offset: float) -> Window:
        """The window of that moment."""
        while offset >= self.window_s * _MAX_WINDOWS:
            self._halve()
        index = max(0, int(offset / self.window_s))
        while len(self._windows) <= index:
            self._windows.append(Window())
        return self._windows[index]

    def add_tokens(self, response: Response, start: float) -> None:
        """Count a response's tokens, by usage, evenly over the events that brought them."""
        if response.first is None or response.last is None or response.usage is None:
            return
        self.at(response.last - start)
        self._came += accumulate(response.gaps, initial=response.first - start)
        self._weights.append((response.usage.completion_tokens / response.events, response.events))
        if len(self._came) > _BATCH:
            self._count()

    def windows(self) -> list[Window]:
        """All of them, when the run is over."""
        self._count()
        for window in self._windows:
            window.output_tokens = round(window.output_tokens, 1)
        return self._windows

    def _count(self) -> None:
        if self._came:
            tokens, events = zip(*self._weights, strict=True)
            places = np.clip((np.array(self._came) / self.window_s).astype(int), 0, len(self._windows) - 1)
            for window, count in zip(self._windows, np.bincount(places, np.repeat(tokens, events)).tolist(), strict=False):
                window.output_tokens += count
            self._came, self._weights = [], []

    def _halve(self) -> None:
        self._count()
        self.window_s *= 2
        merged = self._windows[::2]
        for even, odd in zip(merged, self._windows[1::2], strict=False):
            even.merge(odd)
        self._windows = merged

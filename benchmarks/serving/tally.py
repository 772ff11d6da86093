"""Counts the responses of one load as they end, and keeps none of them: memory does not grow with the load."""

import json
import time
from array import array
from collections import Counter
from hashlib import blake2b

import jsonschema
import numpy as np

from benchmarks.serving.histogram import Histogram
from benchmarks.serving.profiles import ANSWER_SCHEMA
from benchmarks.serving.request import Response
from benchmarks.serving.result import Checks, Slo
from benchmarks.serving.timeline import Timeline

_BATCH = 8192  # gaps that are kept before they are counted
_SAMPLES = 16  # responses whose text is kept, to be counted by the tokenizer afterwards
_ADDED_PER_REQUEST = 64  # tokens that a chat template may add
_SLACK = 2  # tokens by which the same text can differ at its seams


class Tally:
    """`start` is when the load began; all times of responses are on the same clock."""

    def __init__(self, slo: Slo, *, schema_asked: bool) -> None:
        self.start = 0.0
        self.end = 0.0
        self.slo, self._schema_asked = slo, schema_asked
        self.completed = self.good = self.prompt_tokens = self.output_tokens = 0
        self.min_prompt_tokens: int | None = None
        self.errors: Counter[str] = Counter()
        self.error_examples: dict[str, str] = {}
        self.ttft, self.tpot, self.itl, self.e2e = Histogram(), Histogram(), Histogram(), Histogram()
        self.timeline = Timeline()
        self.checks = Checks()
        self.samples: list[Response] = []
        self._digests = array("Q")
        self._gaps: list[float] = []

    @property
    def wants_text(self) -> bool:
        return len(self.samples) < _SAMPLES

    @property
    def ended(self) -> int:
        return self.completed + self.errors.total()

    def add(self, response: Response) -> None:
        """Count a response, good or bad."""
        self._digests.append(int.from_bytes(blake2b(response.request.body, digest_size=8).digest()))
        window = self.timeline.at(response.intended - self.start)
        window.requests += 1
        self.end = max(self.end, response.last or time.perf_counter())
        if error := response.error or self._fault(response):
            window.errors += 1
            self.errors[error] += 1
            self.error_examples.setdefault(error, response.detail)
            return
        if response.text and self.wants_text:
            self.samples.append(response)
        self._count_tokens(response)
        self._add_times(response)

    def _count_gaps(self) -> None:
        self.itl.add(1000 * np.array(self._gaps))
        self._gaps = []

    def finish(self) -> Checks:
        """The checks, with those that need the end of the load."""
        self._count_gaps()
        self.checks.repeated_prompts = len(self._digests) - len(np.unique(np.frombuffer(self._digests, np.uint64)))
        return self.checks

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
        usage, request = response.usage, response.request
        self.completed += 1
        self.checks.declared_shared_tokens += request.shared_tokens
        if usage is None:
            self.checks.without_usage += 1
            return
        self.prompt_tokens += usage.prompt_tokens
        self.output_tokens += usage.completion_tokens
        self.min_prompt_tokens = min(usage.prompt_tokens, self.min_prompt_tokens or usage.prompt_tokens)
        if usage.cached_tokens is not None:
            self.checks.cached_tokens = (self.checks.cached_tokens or 0) + usage.cached_tokens
            self.checks.cached_by = "usage"
        if wrong := miscount(response):
            self.checks.wrong_counts += 1
            self.checks.wrong_count_example = self.checks.wrong_count_example or wrong

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
                getattr(self, name).add_one(value)
                getattr(window, name).add_one(value)
        self._gaps += response.gaps
        if len(self._gaps) > _BATCH:
            self._count_gaps()
        if self._is_good(times):
            self.good += 1
            window.good += 1
        self.timeline.add_tokens(response, self.start)

    def _is_good(self, times: dict[str, float | None]) -> bool:
        limits = (("ttft", self.slo.ttft_ms), ("tpot", self.slo.tpot_ms), ("e2e", self.slo.e2e_ms))
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

"""Takes the answers of one load as they end and keeps counts, never the answers: memory does not grow with the load."""

import json
import time
from array import array
from collections import Counter
from hashlib import blake2b

import jsonschema
import numpy as np

from benchmarks.serving.answer import Answer, Asked
from benchmarks.serving.histogram import Histogram
from benchmarks.serving.profiles import ANSWER_SCHEMA
from benchmarks.serving.result import Checks, Slo
from benchmarks.serving.timeline import Timeline

_BATCH = 8192  # gaps that are kept before they are counted
_SAMPLES = 16  # answers whose text is kept, to be counted by the tokenizer afterwards
_ADDED_PER_REQUEST = 64  # tokens that a chat template may add
_SLACK = 2  # tokens by which the same text can differ at its seams


class Tally:
    """`start` is when the load began; all times of answers are on the same clock."""

    def __init__(self, slo: Slo, *, schema_asked: bool) -> None:
        self.start = 0.0
        self.end = 0.0
        self._slo, self._schema_asked = slo, schema_asked
        self.completed = self.good = self.prompt_tokens = self.output_tokens = 0
        self.least_prompt_tokens: int | None = None
        self.errors: Counter[str] = Counter()
        self.error_examples: dict[str, str] = {}
        self.ttft, self.tpot, self.itl, self.e2e = Histogram(), Histogram(), Histogram(), Histogram()
        self.timeline = Timeline()
        self.checks = Checks()
        self.samples: list[Answer] = []
        self._digests = array("Q")
        self._gaps: list[float] = []

    @property
    def wants_text(self) -> bool:
        return len(self.samples) < _SAMPLES

    @property
    def ended(self) -> int:
        return self.completed + self.errors.total()

    def take(self, answer: Answer) -> None:
        """Count an answer, good or bad."""
        self._digests.append(int.from_bytes(blake2b(answer.asked.body, digest_size=8).digest()))
        window = self.timeline.at(answer.intended - self.start)
        window.requests += 1
        self.end = max(self.end, answer.last or time.perf_counter())
        if error := answer.error or self._fault(answer):
            window.errors += 1
            self.errors[error] += 1
            self.error_examples.setdefault(error, answer.detail)
            return
        if answer.text and self.wants_text:
            self.samples.append(answer)
        self._count_tokens(answer)
        self._add_times(answer)

    def _count_gaps(self) -> None:
        self.itl.add(1000 * np.array(self._gaps))
        self._gaps = []

    def finish(self) -> Checks:
        """What only the end of the load tells."""
        self._count_gaps()
        self.checks.repeated_prompts = len(self._digests) - len(np.unique(np.frombuffer(self._digests, np.uint64)))
        return self.checks

    def _fault(self, answer: Answer) -> str | None:
        """What is wrong with an answer that came whole."""
        if answer.first is None:
            return "no token in the answer"
        if self._schema_asked and answer.finish_reason == "length":
            return "answer cut off before its end"
        if self._schema_asked:
            try:
                jsonschema.validate(json.loads(answer.text), ANSWER_SCHEMA)
            except (ValueError, jsonschema.ValidationError):
                return "answer not of the schema"
        return None

    def _count_tokens(self, answer: Answer) -> None:
        usage, asked = answer.usage, answer.asked
        self.completed += 1
        self.checks.declared_shared_tokens += asked.shared_tokens
        if usage is None:
            self.checks.without_usage += 1
            return
        self.prompt_tokens += usage.prompt_tokens
        self.output_tokens += usage.completion_tokens
        self.least_prompt_tokens = min(usage.prompt_tokens, self.least_prompt_tokens or usage.prompt_tokens)
        if usage.cached_tokens is not None:
            self.checks.cached_tokens = (self.checks.cached_tokens or 0) + usage.cached_tokens
            self.checks.cached_by = "usage"
        if wrong := disagreement(answer):
            self.checks.wrong_counts += 1
            self.checks.wrong_count_example = self.checks.wrong_count_example or wrong

    def _add_times(self, answer: Answer) -> None:
        assert answer.first is not None
        assert answer.last is not None
        window = self.timeline.at(answer.intended - self.start)
        times: dict[str, float | None] = {
            "ttft": 1000 * (answer.first - answer.intended),
            "e2e": 1000 * (answer.last - answer.intended),
            "tpot": _tpot_ms(answer),
        }
        for name, value in times.items():
            if value is not None:
                getattr(self, name).add_one(value)
                getattr(window, name).add_one(value)
        self._gaps += answer.gaps
        if len(self._gaps) > _BATCH:
            self._count_gaps()
        if self._is_good(times):
            self.good += 1
            window.good += 1
        self.timeline.add_tokens(answer, self.start)

    def _is_good(self, times: dict[str, float | None]) -> bool:
        limits = (("ttft", self._slo.ttft_ms), ("tpot", self._slo.tpot_ms), ("e2e", self._slo.e2e_ms))
        return all(limit is None or (times[name] or 0.0) <= limit for name, limit in limits)


def disagreement(answer: Answer) -> str | None:
    """How the server's count contradicts what was asked and what came; None where it does not."""
    asked, usage = answer.asked, answer.usage
    assert usage
    if asked.exact and usage.completion_tokens != asked.output_tokens:
        return f"usage says {usage.completion_tokens} output tokens, {asked.output_tokens} were asked for"
    if usage.completion_tokens > asked.output_tokens:
        return f"usage says {usage.completion_tokens} output tokens, at most {asked.output_tokens} were asked for"
    if answer.events > usage.completion_tokens:
        return f"usage says {usage.completion_tokens} output tokens, {answer.events} events with text came"
    if not _least_prompt(asked) <= usage.prompt_tokens <= _most_prompt(asked):
        return f"usage says {usage.prompt_tokens} prompt tokens, {asked.prompt_tokens} were sent"
    return None


def _tpot_ms(answer: Answer) -> float | None:
    """Time for each token after the first; None of an answer of one token."""
    if answer.usage is None or answer.usage.completion_tokens < 2 or answer.first is None or answer.last is None:
        return None
    return 1000 * (answer.last - answer.first) / (answer.usage.completion_tokens - 1)


def _least_prompt(asked: Asked) -> int:
    """Answers to earlier turns can be fewer tokens when read again: special tokens have no text."""
    return asked.prompt_tokens // 2 if asked.earlier_turns else asked.prompt_tokens - _SLACK


def _most_prompt(asked: Asked) -> int:
    read_again = asked.prompt_tokens // 2 if asked.earlier_turns else 0
    return asked.prompt_tokens + read_again + (1 + asked.earlier_turns) * _ADDED_PER_REQUEST

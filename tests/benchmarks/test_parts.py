"""The load generator's parts, each alone: arrivals, prompts, datasets, event parsing, histograms, windows, tallies."""

import json
import tracemalloc
from itertools import islice, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.common.errors import UserError
from benchmarks.serving.arrivals import PATTERNS, arrivals, from_trace
from benchmarks.serving.events import EventReader
from benchmarks.serving.histogram import Histogram
from benchmarks.serving.profiles import PROFILES
from benchmarks.serving.request import Request, Response, Usage
from benchmarks.serving.result import Slo
from benchmarks.serving.tally import Tally, Timeline
from benchmarks.serving.tokenizer import single_token_words
from benchmarks.serving.workload import Entry, Texts, from_dataset, read_dataset, synthetic
from tests.benchmarks import records


class Blanks:
    """A tokenizer that cuts at blanks."""

    source = "blanks"

    def count(self, text: str) -> int:
        return len(text.split())


WORDS = single_token_words(Blanks())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_arrivals_have_the_rate_that_was_asked_for(pattern: str) -> None:
    offsets = list(arrivals(pattern, 50, 100, seed=1))
    assert offsets == sorted(offsets)
    assert offsets[0] >= 0
    assert offsets[-1] < 100
    # a ramp from a tenth of the rate has 55 % of it on the average
    assert len(offsets) == pytest.approx(5000 * (0.55 if pattern == "ramp" else 1), rel=0.1)
    assert offsets == list(arrivals(pattern, 50, 100, seed=1))


def test_a_trace_is_taken_as_it_is(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text('100.5\n{"timestamp": 100.0}\n\n103\n')
    assert from_trace(trace) == [0.0, 0.5, 3.0]
    trace.write_text("1.0\nnoon\n")
    with pytest.raises(UserError, match="trace:2: 'noon' is not a time"):
        from_trace(trace)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(4, 300))
def test_texts_have_their_length_and_never_repeat(seed: int, tokens: int) -> None:
    texts, again = Texts(WORDS, seed), Texts(WORDS, seed)
    drawn = [texts.next(tokens) for _ in range(50)]
    assert {len(text.split()) for text in drawn} == {tokens}
    assert len({" ".join(text.split()[:4]) for text in drawn}) == 50
    assert drawn == [again.next(tokens) for _ in range(50)]


def bodies(name: str, count: int, **changes: int) -> list[dict[str, object]]:
    profile = PROFILES[name].model_copy(update=changes)
    requests = (conversation.next(None) for conversation in synthetic("m", profile, Texts(WORDS, 1)))
    return [json.loads(request.body) for request in islice(requests, count) if request]


def test_profiles_make_the_requests_that_they_describe() -> None:
    [chat] = bodies("chat", 1)
    assert (chat["stream"], chat["ignore_eos"], chat["max_tokens"]) == (True, True, 128)
    assert "prompt" in bodies("completions", 1)[0]
    assert bodies("json", 1)[0]["response_format"]
    assert "ignore_eos" not in bodies("json", 1)[0]
    assert len(str(bodies("long-context", 1)[0]["messages"]).split()) > 14_000


def test_prompts_share_nothing_but_the_prefix_that_was_asked_for() -> None:
    prompts = [str(body["prompt"]).split() for body in bodies("completions", 20, shared_prefix_tokens=30)]
    assert len({tuple(words[:30]) for words in prompts}) == 1
    assert len({tuple(words[30:34]) for words in prompts}) == 20


def test_a_later_turn_repeats_the_conversation_and_declares_it_shared() -> None:
    profile = PROFILES["multi-turn"].model_copy(update={"turns": 2, "shared_prefix_tokens": 10})
    conversation = next(synthetic("m", profile, Texts(WORDS, 1)))
    first = conversation.next(None)
    assert first
    assert first.shared_tokens == 10
    response = Response(first, 0.0, usage=Usage(first.prompt_tokens + 5, 128), text="the answer")
    second = conversation.next(response)
    assert second
    roles = [message["role"] for message in json.loads(second.body)["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert "the answer" in second.body.decode()
    assert second.shared_tokens == first.prompt_tokens + 5 + 128
    assert conversation.next(response) is None


def test_datasets_in_both_forms(tmp_path: Path) -> None:
    sharegpt, lines = tmp_path / "s.json", tmp_path / "l.jsonl"
    turns = [{"from": "human", "value": "one two"}, {"from": "gpt", "value": "a b c"}]
    sharegpt.write_text(json.dumps([{"conversations": turns}, {"conversations": turns[1:]}]))
    question = [{"role": "user", "content": "one two"}]
    assert read_dataset(sharegpt, Blanks(), 7, 100) == [Entry(question, 2, 3)]
    lines.write_text('{"prompt": "one two"}\n{"messages": [{"role": "user", "content": "x"}], "max_tokens": 9}\n')
    entries = read_dataset(lines, Blanks(), 7, 100)
    assert entries == [Entry(question, 2, 7), Entry([{"role": "user", "content": "x"}], 1, 9)]
    requests = [conversation.next(None) for conversation in from_dataset("m", PROFILES["chat"], entries)]
    assert [request and request.output_tokens for request in requests] == [7, 9]
    lines.write_text('{"prompt": "x"}\nnonsense\n')
    with pytest.raises(UserError, match=r"l\.jsonl:2"):
        read_dataset(lines, Blanks(), 7, 100)


STREAM = (
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    b": a comment\n\n"
    b'data: {"choices":[{"delta":{"content":"w\xc3\xa4r"}}]}\r\n\r\n'
    b'data:{"choices":[{"delta":{"reasoning_content":"m "}}]}\n\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}\n\n'
    b"data: [DONE]\n\n"
)


@settings(deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=6))
def test_a_stream_is_read_the_same_wherever_it_is_cut(cuts: list[int]) -> None:
    response = Response(Request(b"", 5, 2, exact=True), 0.0)
    reader = EventReader(response, keep_text=True)
    for time, (start, end) in enumerate(pairwise(sorted({0, *cuts, len(STREAM)}))):
        reader.feed(STREAM[start:end], float(time))
    assert reader.text == "wärm "
    assert response.usage == Usage(5, 2, 4)
    assert (response.events, len(response.gaps), response.finish_reason, response.complete) == (2, 1, "length", True)


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 1e6), min_size=1), st.lists(st.floats(0.001, 1e6)), st.sampled_from([50, 90, 99, 100]))
def test_percentiles_are_right_within_half_a_percent(first: list[float], second: list[float], percent: int) -> None:
    histogram, other = Histogram(), Histogram()
    histogram.add(first)
    for value in second:
        other.add_one(value)
    histogram.merge(other)
    ordered = sorted(first + second)
    exact = ordered[-(-len(ordered) * percent // 100) - 1]
    assert histogram.percentile(percent) == pytest.approx(exact, rel=0.0051)
    assert histogram.mean == pytest.approx(sum(ordered) / len(ordered))
    assert histogram.curve()[1][-1] == pytest.approx(1)


def test_nothing_has_no_percentile() -> None:
    assert Histogram().percentile(50) is None
    assert Histogram().mean is None


@settings(deadline=None)
@given(st.floats(0.05, 30), st.integers(1, 400))
def test_windows_keep_every_request_and_token_however_long_the_run_is(every: float, count: int) -> None:
    run = records.run(records.responses(count, every=every))
    assert len(run.windows) <= 120
    assert sum(window.requests for window in run.windows) == count
    assert sum(window.output_tokens for window in run.windows) == pytest.approx(20 * count, abs=len(run.windows))
    assert sum(window.ttft.count for window in run.windows) == count


def test_a_window_has_the_tokens_that_came_in_it() -> None:
    timeline = Timeline()
    [response] = records.responses(1, ttft=1.0, tpot=0.25, tokens=5)
    timeline.add_tokens(response, 0.0)
    assert [window.output_tokens for window in timeline.windows()] == [0, 0, 0, 0, 1, 1, 1, 1, 1]


def test_goodput_counts_requests_within_all_limits() -> None:
    fast, slow = list(records.responses(30, ttft=0.2)), records.responses(10, ttft=0.9)
    assert records.run([*fast, *slow], Slo(ttft_ms=500, tpot_ms=60)).good == 30
    assert records.run(fast, Slo(ttft_ms=500, tpot_ms=40)).good == 0


def test_answers_in_json_must_be_whole_and_of_the_schema() -> None:
    tally = Tally(Slo(), schema_asked=True)
    texts = ['{"title": "x", "score": 1, "open": true}', '{"title": "x"}', "words", '{"title": "x']
    for response, text in zip(records.responses(4), texts, strict=True):
        response.text, response.finish_reason = text, "length" if text == texts[3] else "stop"
        tally.add(response)
    assert tally.counts.completed == 1
    assert tally.counts.errors == {"answer not of the schema": 2, "answer cut off before its end": 1}


def test_memory_does_not_grow_with_the_load() -> None:
    """Ten times the requests cost less than 100 bytes each: their digests, and nothing of what they answered."""
    tally = Tally(Slo(), schema_asked=False)
    for response in records.responses(2000, every=0.01):
        tally.add(response)
    tracemalloc.start()
    for response in records.responses(10_000, every=0.01):
        tally.add(response)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 100 * 10_000

"""The load generator's parts, each alone: arrivals, prompts, datasets, traces, event parsing, figures."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.common.errors import UserError
from benchmarks.serving.arrivals import PATTERNS, arrivals
from benchmarks.serving.dataset import read_dataset
from benchmarks.serving.events import EventReader
from benchmarks.serving.figures import Requests, Times
from benchmarks.serving.load import fault
from benchmarks.serving.profiles import PROFILES
from benchmarks.serving.records import blocks_of, decode, encode, record_of, shared_beginnings
from benchmarks.serving.request import PromptDetails, Request, Response, Usage
from benchmarks.serving.result import Load, Slo
from benchmarks.serving.tokenizer import Tokenizer, single_token_words
from benchmarks.serving.trace import TraceRow, read_trace
from benchmarks.serving.workload import FromDataset, Synthetic, Texts
from tests.benchmarks import records

BLANKS = Tokenizer("blanks", lambda text: len(text.split()))
WORDS = single_token_words(BLANKS)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("rate", [0.5, 50])
def test_arrivals_are_exactly_as_many_as_the_rate_asks_for(pattern: str, rate: float) -> None:
    offsets = arrivals(pattern, rate, 100, seed=1)
    assert offsets == sorted(offsets)
    assert offsets[0] >= 0
    assert offsets[-1] < 100
    # a ramp from a tenth of the rate has 55 % of it on the average
    assert len(offsets) == round(100 * rate * (0.55 if pattern == "ramp" else 1))
    assert offsets == arrivals(pattern, rate, 100, seed=1)
    if pattern != "constant":
        assert offsets != arrivals(pattern, rate, 100, seed=2)


def test_a_ramp_grows_evenly() -> None:
    early, late = np.histogram(arrivals("ramp", 500, 100, seed=1), [0, 50, 100])[0]
    assert early / late == pytest.approx((0.1 + 0.55) / (0.55 + 1), rel=0.05)


SPAN = {
    "startTimeUnixNano": "1700000000000000000",
    "attributes": [
        {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "7"}},
        {"key": "gen_ai.usage.output_tokens", "value": {"intValue": "9"}},
    ],
}
TRACES = {
    "seconds": ('100.5\n{"timestamp": 100.0}\n\n103\n', [(0.0, None, None), (0.5, None, None), (3.0, None, None)]),
    "Mooncake": ('{"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}\n', [(0.0, 600, 5)]),
    "Azure": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,110,27\n",
        [(0.0, 4808, 10), (0.052, 110, 27)],
    ),
    "OpenTelemetry": (json.dumps(SPAN), [(0.0, 7, 9)]),
}


@pytest.mark.parametrize(("text", "rows"), TRACES.values(), ids=TRACES)
def test_traces_of_each_form(text: str, rows: list[tuple[float, int | None, int | None]], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text(text)
    read = read_trace(trace)
    assert [(round(row.offset_s, 6), row.prompt_tokens, row.output_tokens) for row in read] == rows
    assert read[0] == TraceRow(*rows[0], (1, 2) if "hash_ids" in text else ())


def test_a_wrong_line_of_a_trace_is_named(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text("1.0\nnoon\n")
    with pytest.raises(UserError, match="trace:2: 'noon' is not a row of a trace"):
        read_trace(trace)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(4, 300))
def test_texts_have_their_length_and_never_repeat(seed: int, tokens: int) -> None:
    texts, again = Texts(WORDS, seed), Texts(WORDS, seed)
    drawn = [texts.text(number, tokens) for number in range(50)]
    assert {len(text.split()) for text in drawn} == {tokens}
    assert len({" ".join(text.split()[:4]) for text in drawn}) == 50
    assert drawn[::-1] == [again.text(number, tokens) for number in reversed(range(50))]


def bodies(name: str, count: int, **changes: int) -> list[dict[str, object]]:
    workload = Synthetic("m", PROFILES[name].model_copy(update=changes), Texts(WORDS, 1))
    requests = (next(workload.conversation(number)) for number in range(count))
    return [json.loads(request.body) for request in requests]


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


def test_each_group_has_a_beginning_of_its_own() -> None:
    prompts = [str(body["prompt"]).split() for body in bodies("completions", 20, shared_prefix_tokens=30, prefix_groups=4)]
    assert len({tuple(words[:30]) for words in prompts}) == 4


def test_a_later_turn_repeats_the_conversation_and_declares_it_shared() -> None:
    profile = PROFILES["multi-turn"].model_copy(update={"turns": 2, "shared_prefix_tokens": 10})
    conversation = Synthetic("m", profile, Texts(WORDS, 1)).conversation(0)
    first = next(conversation)
    assert (first.shared_tokens, first.shape) == (10, "system user")
    response = Response(first, 0.0, usage=Usage(first.prompt_tokens + 5, 128), text="the answer")
    second = conversation.send(response)
    roles = [message["role"] for message in json.loads(second.body)["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert "the answer" in second.body.decode()
    assert second.shared_tokens == first.prompt_tokens + 5 + 128
    assert second.blocks.startswith(first.blocks)
    with pytest.raises(StopIteration):
        conversation.send(response)


def test_datasets_in_both_forms(tmp_path: Path) -> None:
    sharegpt, lines = tmp_path / "s.json", tmp_path / "l.jsonl"
    turns = [{"from": "human", "value": "one two"}, {"from": "gpt", "value": "a b c"}]
    sharegpt.write_text(json.dumps([{"conversations": turns * 2}, {"conversations": turns[1:]}]))
    [entry] = read_dataset(sharegpt, BLANKS, 7, 100)
    assert [(turn.tokens, turn.output_tokens) for turn in entry] == [(2, 3), (2, 3)]
    profile = PROFILES["chat"].model_copy(update={"turns": 2})
    conversation = FromDataset("m", profile, [entry], 0).conversation(0)
    assert conversation
    first = next(conversation)
    second = conversation.send(Response(first, 0.0, usage=Usage(9, 3), text="its own answer"))
    contents = [message["content"] for message in json.loads(second.body)["messages"]]
    assert contents == ["one two", "its own answer", "one two"]
    question = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9, "shared_prefix_tokens": 1}
    lines.write_text('{"prompt": "one two"}\n' + json.dumps(question))
    workload = FromDataset("m", PROFILES["chat"], read_dataset(lines, BLANKS, 7, 100), 0)
    requests = [next(each) for number in range(3) if (each := workload.conversation(number))]
    assert [(request.output_tokens, request.shared_tokens) for request in requests] == [(7, None), (9, 1)]
    lines.write_text('{"prompt": "x"}\nnonsense\n')
    with pytest.raises(UserError, match=r"l\.jsonl:2"):
        read_dataset(lines, BLANKS, 7, 100)


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
    response = Response(Request(b"", 5, 2), 0.0)
    reader = EventReader(response, keep_text=True)
    for time, (start, end) in enumerate(pairwise(sorted({0, *cuts, len(STREAM)}))):
        reader.feed(STREAM[start:end], float(time))
    assert reader.text == "wärm "
    assert response.usage == Usage(5, 2, PromptDetails(4))
    assert (len(response.times), response.sizes, response.finish_reason, response.complete) == (2, [3, 2], "length", True)
    assert (response.text_at, response.content_at) == (0, 0)


def streamed(*events: str, tokens: int, continuous: bool = False) -> list[float]:
    """Tokens in each event of a stream, as its record has them."""
    response = Response(Request(b"", 5, tokens), 0.0)
    reader = EventReader(response, keep_text=False)
    for number, text in enumerate(events, 1):
        body: dict[str, object] = {"choices": [{"text": text}]}
        if continuous:
            body["usage"] = {"prompt_tokens": 5, "completion_tokens": number * number}
        reader.feed(b"data: " + json.dumps(body).encode() + b"\n\n", float(number))
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": tokens}}
    reader.feed(b"data: " + json.dumps(usage).encode() + b"\n\ndata: [DONE]\n\n", 99.0)
    return record_of(0.0, response, None, None).tokens


def test_tokens_of_an_event_are_the_servers_count_or_the_share_of_the_text() -> None:
    assert streamed("ab ", "c ", tokens=2) == []
    assert streamed("a b c ", "d ", "e f ", tokens=6) == [3, 1, 2]
    assert streamed("a ", "b ", "c ", tokens=9, continuous=True) == [1, 3, 5]


@pytest.mark.parametrize("per_event", [1, 4, 8, 16, 64])
def test_times_for_each_token_do_not_depend_on_how_many_an_event_holds(per_event: int) -> None:
    """5 ms for each of 64 tokens. Dividing by all tokens but one gave 4.43 ms at 8 in an event, and 0.00 at 64."""
    response = Response(Request(b"", 5, 64), 0.0, usage=Usage(5, 64), complete=True)
    response.times = [0.2 + 0.005 * token for token in range(0, 64, per_event)]
    response.sizes = [5 * per_event] * len(response.times)
    requests = Requests([record_of(0.0, response, None, None)], Load(arrivals="constant", timeout_s=1), 1.0)
    figures = {name: requests.times(name).statistics()["p50"] for name in ("ttft", "tpot", "itl", "gap", "e2e")}
    several = per_event < 64
    assert figures["tpot"] == (pytest.approx(5) if several else None)
    assert figures["itl"] == (pytest.approx(5) if several else None)
    assert figures["gap"] == (pytest.approx(5 * per_event) if several else None)
    assert figures["ttft"] == 200
    assert figures["e2e"] == pytest.approx(200 + 5 * (64 - per_event))


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 1e6), min_size=1))
def test_percentiles_are_by_nearest_rank(values: list[float]) -> None:
    count = len(values)
    statistics = Times(np.array(values), np.ones(count), np.arange(count)).statistics()
    for percent in (50, 90, 99):
        assert statistics[f"p{percent}"] == sorted(values)[-(-count * percent // 100) - 1]
    assert statistics["mean"] == pytest.approx(sum(values) / count)


def test_rates_are_of_the_steady_state_and_not_of_the_drain() -> None:
    """10 requests/s for 30 s that take 6.9 s each: the time until the last is answered made 8.16/s of it."""
    kept = records.recorded(records.responses(300, ttft=0.0, tpot=6.9 / 19))
    figures = records.run(kept).figures
    assert figures["offered_per_s"] == pytest.approx(10, rel=0.005)
    assert figures["requests_per_s"] == pytest.approx(10, rel=0.01)
    assert figures["output_tok_per_s"] == pytest.approx(200, rel=0.01)
    assert figures["drain_s"] == pytest.approx(6.8, abs=0.2)


def test_prompts_that_begin_alike_are_found_in_their_hashes() -> None:
    texts = [b"a" * 640, b"a" * 320 + b"b" * 320, b"c" * 640, b"a" * 63]
    kept = records.recorded(records.responses(4))
    for record, text in zip(kept, texts, strict=True):
        record.blocks = blocks_of(text)
    assert [share for _, share in shared_beginnings(kept)] == [0, 0.5, 0, 0]
    assert decode(encode(kept).splitlines(), "r") == kept


def test_goodput_counts_requests_within_all_limits() -> None:
    kept = records.recorded([*records.responses(30, ttft=0.2), *records.responses(10, ttft=0.9)])
    assert records.run(kept, Slo(ttft_ms=500, tpot_ms=60)).figures["attainment"] == 0.75
    assert records.run(kept, Slo(ttft_ms=500, tpot_ms=40)).figures["attainment"] == 0


def test_answers_in_json_must_be_whole_and_of_the_schema() -> None:
    request = Request(b"", 5, 9, schema=True)

    def fault_of(text: str, finish: str = "stop") -> str | None:
        return fault(Response(request, 0.0, times=[1.0], finish_reason=finish, text=text))

    assert fault_of('{"title": "x", "score": 1, "open": true}') is None
    assert fault_of('{"title": "x"}') == fault_of("words") == "answer not of the schema"
    assert fault_of('{"title": "x', "length") == "answer cut off before its end"

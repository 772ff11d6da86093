"""Each rule of result validation, provoked on a valid run that is spoilt in one way."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.serving.answers import miscount
from benchmarks.serving.limits import limits_of
from benchmarks.serving.records import Record
from benchmarks.serving.request import Usage
from benchmarks.serving.result import Best, Run
from benchmarks.serving.validation import Finding, ValidatedRun, is_valid_best, validate
from benchmarks.serving.watch import lateness
from tests.benchmarks.records import V6E, recorded, responses, run, setting

Spoil = Callable[[Record], object]


def valid() -> list[Record]:
    return recorded(responses(200))


def findings(records: Sequence[Record], change: Callable[[Run], object] = lambda _: None, **settings: Any) -> list[Finding]:
    made = run(records)
    change(made)
    return validate(setting(**settings), made, records)


def each(change: Spoil, every: int = 1) -> list[Record]:
    records = valid()
    for record in records[::every]:
        change(record)
    return records


def put(name: str, value: Any) -> Spoil:
    return lambda record: setattr(record, name, value)


def test_a_valid_run_has_no_findings() -> None:
    assert findings(valid()) == []


def test_the_published_impossible_figure_is_invalid() -> None:
    """463,345 prefill tok/s for Gemma 4 31B on v6e-4 (dev.to/gde/gemma4-5fon): seven times what four chips can compute."""
    rate = run(valid()).figures["requests_per_s"]
    assert rate
    published = each(put("prompt_tokens", round(463_345 / rate)))
    reasons = [finding.reason for finding in findings(published) if finding.rule == "ceiling"]
    assert "prompt tok/s is 7.4 times what 4 v6e chips can reach at most" in reasons[0]


def faster(record: Record) -> None:
    record.events = [record.events[0], *(gap // 100 for gap in record.events[1:])]
    record.ended = record.intended + sum(record.events) / 1e6


def soon(record: Record) -> None:
    record.events[0] = 1000
    record.ended = record.intended + sum(record.events) / 1e6


def repeats_but_for_the_end(record: Record) -> None:
    record.blocks = "00000001" * 5 + record.prompt[-8:]


def refused(record: Record) -> None:
    record.error, record.events, record.output_tokens, record.prompt_tokens = "HTTP 429", [], None, None


def half_text(record: Record) -> None:
    record.events, record.tokens, record.text_tokens = record.events[::2], [2.0] * 10, 10
    record.ended = record.intended + sum(record.events) / 1e6


def blank_first(record: Record) -> None:
    record.text_at, record.content_at, record.events[1] = 1, 1, 300_000
    record.ended = record.intended + sum(record.events) / 1e6


INVALID: dict[str, tuple[str, Spoil, int, str]] = {
    "one stream faster than its weights are read": ("ceiling", faster, 1, "ms TPOT is less than"),
    "a first token before the prompt can be computed": ("ceiling", soon, 50, "1.00 ms TTFT is less than"),
    "cache hits that nobody declared": ("cache", put("cached_tokens", 25), 1, "25.0%"),
    "a prompt twice": ("repeated", put("prompt", "0"), 2, "99 of 200 requests repeat"),
    "prompts that differ in their end alone": ("repeated", repeats_but_for_the_end, 1, "tokens repeat the beginning"),
    "no usage": ("tokens", put("output_tokens", None), 50, "4 responses came without"),
    "another count of output tokens": ("tokens", put("output_tokens", 21), 50, "reports 21 output tokens, 20 were requested"),
    "47 % too many prompt tokens": ("tokens", put("prompt_tokens", 147), 1, "reports 147 prompt tokens, 100 were sent"),
    "three prompt tokens more than were sent": ("tokens", put("prompt_tokens", 103), 1, "usage reports 103 prompt tokens"),
    "half of the claimed tokens in the text": ("tokens", half_text, 1, "show 2000 tokens, usage reports 4000"),
    "45 % refused": ("errors", refused, 2, "50% of the requests failed (100 x HTTP 429)"),
    "streams that ended long after their last token": ("figures", put("ended", 100.0), 1, "after their last token"),
    "time that goes back": ("figures", put("events", [500_000, -1] + [50_000] * 18), 50, "before the one that precedes"),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "spoil", "every", "words"), INVALID.values(), ids=INVALID)
def test_invalid(rule: str, spoil: Spoil, every: int, words: str) -> None:
    against = [finding for finding in findings(each(spoil, every)) if finding.rule == rule and finding.severity == "invalid"]
    assert against
    assert words in against[0].reason


CLIENT: dict[str, tuple[dict[str, float], str]] = {
    "busy": ({"cpu_share": 0.95}, "used 95% of a core"),
    "on a core that others use": ({"cpu_share": 0.3, "wait_share": 0.6}, "waited for one 60% of the time"),
    "seldom on a core": ({"cpu_share": 0.1, "wait_share": 0.3}, "waited for one 30% of the time"),
    "a late event loop": ({"late_p99_ms": 200.0}, "late by 200 ms"),
}


@pytest.mark.parametrize(("state", "words"), CLIENT.values(), ids=CLIENT)
def test_a_client_that_did_not_keep_up_is_invalid(state: dict[str, float], words: str) -> None:
    def spoil(made: Run) -> None:
        assert made.client
        made.client = made.client.model_copy(update=state)

    [finding] = findings(valid(), spoil)
    assert (finding.rule, finding.severity) == ("client", "invalid")
    assert words in finding.reason


def test_late_sending_is_invalid() -> None:
    [finding] = findings(each(lambda record: setattr(record, "begun", record.intended + 0.3), 20))
    assert (finding.rule, finding.severity) == ("client", "invalid")


def test_lateness_weighs_time_and_not_ticks() -> None:
    """Half a second of pause in 30 s is 1 of 2,950 ticks, and more than a hundredth of the time."""
    pauses = np.array([0.0001] * 2949 + [0.5])
    assert lateness(pauses, 30.0, 0.99) == pytest.approx(0.2, abs=0.01)
    assert lateness(pauses, 300.0, 0.99) < 1e-6


def refuse_a_few(record: Record) -> None:
    refused(record)
    record.error = "timeout"


def merged(record: Record) -> None:
    record.events, record.tokens = record.events[::4], [4.0] * 5
    record.ended = record.intended + sum(record.events) / 1e6


FLAGGED: dict[str, tuple[str, Spoil, int, str]] = {
    "some errors": ("errors", refuse_a_few, 40, "5 x timeout"),
    "cache hits unknown": ("cache", put("cached_tokens", None), 1, "does not report"),
    "several tokens in an event": ("events", merged, 1, "4.0 tokens in an event"),
    "a blank long before the text": ("events", blank_first, 20, "10 of 200 answers began with a blank"),
    "prompts that are not known": ("repeated", put("prompt", ""), 1, "200 prompts are not known"),
}


@pytest.mark.parametrize(("rule", "spoil", "every", "words"), FLAGGED.values(), ids=FLAGGED)
def test_flagged(rule: str, spoil: Spoil, every: int, words: str) -> None:
    against = findings(each(spoil, every))
    assert {finding.severity for finding in against} == {"flagged"}
    assert [finding.rule for finding in against] == [rule]
    assert words in against[0].reason


def test_few_responses_are_flagged_and_hardly_any_are_invalid() -> None:
    assert [str(finding)[:14] for finding in findings(valid()[:50])] == ["flagged (few):"]
    assert "invalid (few): 19 responses" in str(findings(valid()[:19])[0])


def test_a_load_too_short_for_a_steady_state_is_flagged() -> None:
    slow = recorded(responses(100, ttft=6.9, tpot=0.0))
    assert [finding.rule for finding in findings(slow, llm_config=None)] == ["ceiling", "steady"]


def test_cache_hits_of_declared_and_of_found_prefixes_are_allowed() -> None:
    declared = each(put("cached_tokens", 25))
    for record in declared:
        record.declared_shared_tokens = 25
    assert findings(declared) == []
    common = each(lambda record: setattr(record, "blocks", "00000001" * 3 + record.prompt[-8:] * 3))
    for record in common:  # a system prompt that a dataset's prompts have in common
        record.declared_shared_tokens, record.cached_tokens = None, 48
    assert findings(common) == []


def test_a_figure_edited_in_the_file_is_invalid() -> None:
    def edit(made: Run) -> None:
        made.figures["output_tok_per_s"] = 1e6
        made.completed = 300

    reasons = [finding.reason for finding in findings(valid(), edit) if finding.rule == "figures"]
    assert len(reasons) == 2
    assert "output_tok_per_s" in reasons[0]


def test_more_at_once_than_there_are_clients_is_invalid() -> None:
    records = valid()
    assert "requests at once of 2 clients" in str(validate(setting(), run(records, clients=2), records)[0])


def test_a_result_without_records_is_unverified() -> None:
    [finding] = validate(setting(), run(valid()), None, "the records are not there")
    assert str(finding).startswith("flagged (unverified): unverified: the records are not there")


def test_a_result_without_a_config_or_of_a_simulation_is_flagged() -> None:
    assert [finding.rule for finding in findings(valid(), llm_config=None)] == ["ceiling"]
    emulated = {**V6E, "experimental_configs": {"emulated_slice": {}}}
    assert [finding.rule for finding in findings(valid(), llm_config=emulated)] == ["simulated"]


def test_replicas_that_ran_make_the_ceiling_not_those_that_were_allowed() -> None:
    scaling = {**V6E, "deployment_config": {"autoscaling_config": {"min_replicas": 1, "max_replicas": 8}}}
    assert "1 to 8 replicas may have run" in str(findings(valid(), llm_config=scaling))
    assert findings(valid(), lambda made: setattr(made, "replicas", 1), llm_config=scaling) == []
    measured, allowed = limits_of(scaling, replicas=1), limits_of(scaling)
    assert measured
    assert allowed
    assert (measured.replicas, allowed.replicas) == (1, 8)


def test_speculative_decoding_raises_the_ceiling_by_what_was_accepted() -> None:
    plain, drafts = (
        limits_of(V6E),
        {**V6E, "engine_kwargs": {"tensor_parallel_size": 4, "speculative_config": {"num_speculative_tokens": 3}}},
    )
    assert plain
    bound_ms = 1000 * plain.single_stream(100).tpot_s
    twice_as_fast = recorded(responses(200, tpot=bound_ms / 1000 / 2.5))
    assert "ms TPOT is less than" in str(findings(twice_as_fast))
    accepted = findings(twice_as_fast, lambda made: setattr(made, "tokens_per_step", 2.8), llm_config=drafts)
    assert accepted == []
    too_fast = findings(twice_as_fast, lambda made: setattr(made, "tokens_per_step", 1.5), llm_config=drafts)
    assert "ms TPOT is less than" in str(too_fast)
    assert "reports no acceptance" in str(findings(twice_as_fast, llm_config=drafts))


def test_a_sweep_that_rests_on_an_invalid_run_is_not_valid() -> None:
    best, sound = Best(rate=10, achieved_per_s=10), ValidatedRun("x", run(valid()), None, [])
    assert is_valid_best(best, [sound])
    assert not is_valid_best(best, [sound, replace(sound, findings=[Finding("errors", "invalid", "most failed")])])


def test_counts_that_contradict_each_other_are_noticed() -> None:
    def spoilt(usage: Usage) -> str | None:
        [response] = responses(1)
        response.usage = usage
        return miscount(recorded([response])[0])

    assert spoilt(Usage(100, 20)) is None
    assert spoilt(Usage(102, 20)) is None
    assert spoilt(Usage(100, 19)) == "usage reports 19 output tokens, 20 were requested"
    assert spoilt(Usage(90, 20)) == "usage reports 90 prompt tokens, 100 were sent"

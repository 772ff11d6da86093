"""Each rule of result validation, provoked on a valid run that is spoilt in one way."""

from collections.abc import Callable

import pytest

from benchmarks.serving.histogram import Histogram
from benchmarks.serving.request import Usage
from benchmarks.serving.result import Result, Run
from benchmarks.serving.validation import Finding, best_rate, is_invalid, validate
from tests.benchmarks.records import V6E, responses, run, setting, with_figures


def valid() -> Run:
    return run(responses(200))


def findings(spoilt: Run) -> list[Finding]:
    return validate(setting(), with_figures(spoilt))


def test_a_valid_run_has_no_findings() -> None:
    assert validate(setting(), valid()) == []


def test_the_published_impossible_figure_is_invalid() -> None:
    """463,345 prefill tok/s for Gemma 4 31B on v6e-4 (dev.to/gde/gemma4-5fon): seven times what four chips can compute."""
    published = valid()
    published.prompt_tokens = round(463_345 * published.elapsed_s)
    [finding] = findings(published)
    assert (finding.rule, finding.severity) == ("ceiling", "invalid")
    assert "463,345 prompt tok/s is 7.4 times what 4 v6e chips can reach at most" in finding.reason


def wrong_count(spoilt: Run) -> None:
    spoilt.checks.wrong_counts, spoilt.checks.wrong_count_example = 1, "usage reports 19"


INVALID: dict[str, tuple[str, Callable[[Run], None], str]] = {
    "more output than memory allows": (
        "ceiling",
        lambda r: setattr(r, "output_tokens", round(1e5 * r.elapsed_s)),
        "100,000 output tok/s is",
    ),
    "one stream faster than its weights are read": (
        "ceiling",
        lambda r: setattr(r, "tpot", scaled(r, 0.01)),
        "ms TPOT is less than",
    ),
    "a first token before the prompt can be computed": ("ceiling", lambda r: r.ttft.add_one(1.0), "1.00 ms TTFT is less than"),
    "cache hits that were not declared": ("cache", lambda r: setattr(r.checks, "cached_tokens", 5_000), "25.0%"),
    "a prompt twice": ("repeated", lambda r: setattr(r.checks, "repeated_prompts", 1), "1 of 200"),
    "no usage": ("tokens", lambda r: setattr(r.checks, "without_usage", 3), "3 responses"),
    "wrong token counts": ("tokens", wrong_count, "usage reports 19"),
    "hardly any responses": ("few", lambda r: setattr(r, "completed", 5), "5 responses"),
    "a busy client": ("client", lambda r: setattr(r.client, "cpu_share", 0.95), "95%"),
    "a late event loop": ("client", lambda r: r.client.lag.add([200.0] * 10), "late by"),
    "late sending": ("client", lambda r: r.client.late.add([300.0] * 10), "late by"),
    "mostly errors": ("errors", lambda r: r.errors.update({"HTTP 503": 150}), "75% of the requests failed"),
}


def scaled(run: Run, share: float) -> Histogram:
    histogram = Histogram()
    histogram.add([1000 * 0.05 * share] * run.completed)
    return histogram


@pytest.mark.parametrize(("rule", "spoil", "words"), INVALID.values(), ids=INVALID)
def test_invalid(rule: str, spoil: Callable[[Run], None], words: str) -> None:
    spoilt = valid()
    spoil(spoilt)
    against = [finding for finding in findings(spoilt) if finding.rule == rule and finding.severity == "invalid"]
    assert against
    assert words in against[0].reason


FLAGGED: dict[str, tuple[str, Callable[[Run], None], str]] = {
    "few responses": ("few", lambda r: setattr(r, "completed", 50), "50 responses"),
    "some errors": ("errors", lambda r: r.errors.update({"timeout": 5}), "5 x timeout"),
    "cache hits unknown": ("cache", lambda r: setattr(r.checks, "cached_tokens", None), "does not report"),
    "text of fewer tokens": ("tokens", lambda r: setattr(r.checks, "sampled_tokens", 100), "0 tokens, usage reports 100"),
}


@pytest.mark.parametrize(("rule", "spoil", "words"), FLAGGED.values(), ids=FLAGGED)
def test_flagged(rule: str, spoil: Callable[[Run], None], words: str) -> None:
    spoilt = valid()
    spoil(spoilt)
    against = findings(spoilt)
    assert not is_invalid(against)
    assert [finding.rule for finding in against] == [rule]
    assert words in against[0].reason


def test_declared_cache_hits_are_allowed() -> None:
    shared = valid()
    shared.checks.cached_tokens, shared.checks.declared_shared_tokens = 5_000, 5_000
    assert findings(shared) == []


def test_a_figure_edited_in_the_file_is_invalid() -> None:
    edited = valid()
    edited.figures["output_tok_per_s"] = 1e6
    reasons = [finding.reason for finding in validate(setting(), edited) if finding.rule == "figures"]
    assert len(reasons) == 1
    assert "output_tok_per_s" in reasons[0]


def test_a_result_without_a_config_or_of_a_simulation_is_flagged() -> None:
    assert [finding.rule for finding in validate(setting(llm_config=None), valid())] == ["ceiling"]
    emulated = {**V6E, "experimental_configs": {"emulated_slice": {}}}
    assert [finding.rule for finding in validate(setting(llm_config=emulated), valid())] == ["simulated"]


def test_a_sweep_that_rests_on_an_invalid_run_has_no_best_rate() -> None:
    result = Result(setting=setting(), runs=[valid()], best_rate=10)
    assert best_rate(result) == 10
    result.runs[0].client.cpu_share = 0.95
    assert best_rate(result) is None


def test_counts_that_contradict_each_other_are_noticed() -> None:
    def spoilt(usage: Usage) -> str | None:
        [response] = responses(1)
        response.usage = usage
        return run([response]).checks.wrong_count_example

    assert spoilt(Usage(100, 20)) is None
    assert spoilt(Usage(100, 19)) == "usage reports 19 output tokens, 20 were requested"
    assert spoilt(Usage(90, 20)) == "usage reports 90 prompt tokens, 100 were sent"
    assert spoilt(Usage(900, 20)) == "usage reports 900 prompt tokens, 100 were sent"

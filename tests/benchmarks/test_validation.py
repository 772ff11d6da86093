"""Each rule of the honesty gate, provoked on an honest run that is spoilt in one way."""

from collections.abc import Callable

import pytest

from benchmarks.serving.answer import Usage
from benchmarks.serving.histogram import Histogram
from benchmarks.serving.result import Result, Run
from benchmarks.serving.validation import Finding, best_rate, examine, is_refused
from tests.benchmarks.records import V6E, answers, refigured, run, setting


def honest() -> Run:
    return run(answers(200))


def found(spoilt: Run) -> list[Finding]:
    return examine(setting(), refigured(spoilt))


def test_an_honest_run_has_nothing_against_it() -> None:
    assert examine(setting(), honest()) == []


def test_the_published_impossible_figure_is_refused() -> None:
    """463,345 prefill tok/s for Gemma 4 31B on v6e-4 (dev.to/gde/gemma4-5fon): seven times what four chips can compute."""
    published = honest()
    published.prompt_tokens = round(463_345 * published.elapsed_s)
    [finding] = found(published)
    assert (finding.rule, finding.severity) == ("ceiling", "refused")
    assert "463,345 prompt tok/s is 7.4 times what 4 v6e chips can reach at most" in finding.reason


def wrong_answer(spoilt: Run) -> None:
    spoilt.checks.wrong_counts, spoilt.checks.wrong_count_example = 1, "usage says 19"


REFUSED: dict[str, tuple[str, Callable[[Run], None], str]] = {
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
    "no usage": ("tokens", lambda r: setattr(r.checks, "without_usage", 3), "3 answers"),
    "wrong token counts": ("tokens", wrong_answer, "usage says 19"),
    "hardly any answers": ("few", lambda r: setattr(r, "completed", 5), "5 answers"),
    "a busy client": ("client", lambda r: setattr(r.client, "cpu_share", 0.95), "95%"),
    "a late event loop": ("client", lambda r: r.client.lag.add([200.0] * 10), "late by"),
    "late sending": ("client", lambda r: r.client.late.add([300.0] * 10), "late by"),
    "mostly errors": ("errors", lambda r: r.errors.update({"HTTP 503": 150}), "75% of the requests failed"),
}


def scaled(run: Run, share: float) -> Histogram:
    found = Histogram()
    found.add([1000 * 0.05 * share] * run.completed)
    return found


@pytest.mark.parametrize(("rule", "spoil", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(rule: str, spoil: Callable[[Run], None], words: str) -> None:
    spoilt = honest()
    spoil(spoilt)
    against = [finding for finding in found(spoilt) if finding.rule == rule and finding.severity == "refused"]
    assert against
    assert words in against[0].reason


MARKED: dict[str, tuple[str, Callable[[Run], None], str]] = {
    "few answers": ("few", lambda r: setattr(r, "completed", 50), "50 answers"),
    "some errors": ("errors", lambda r: r.errors.update({"timeout": 5}), "5 x timeout"),
    "cache hits unknown": ("cache", lambda r: setattr(r.checks, "cached_tokens", None), "does not tell"),
    "text of fewer tokens": ("tokens", lambda r: setattr(r.checks, "sampled_tokens", 100), "0 tokens, usage says 100"),
}


@pytest.mark.parametrize(("rule", "spoil", "words"), MARKED.values(), ids=MARKED)
def test_marked(rule: str, spoil: Callable[[Run], None], words: str) -> None:
    spoilt = honest()
    spoil(spoilt)
    against = found(spoilt)
    assert not is_refused(against)
    assert [finding.rule for finding in against] == [rule]
    assert words in against[0].reason


def test_declared_cache_hits_are_allowed() -> None:
    shared = honest()
    shared.checks.cached_tokens, shared.checks.declared_shared_tokens = 5_000, 5_000
    assert found(shared) == []


def test_a_figure_edited_in_the_file_is_refused() -> None:
    edited = honest()
    edited.figures["output_tok_per_s"] = 1e6
    reasons = [finding.reason for finding in examine(setting(), edited) if finding.rule == "figures"]
    assert len(reasons) == 1
    assert "output_tok_per_s" in reasons[0]


def test_a_result_without_a_config_or_of_a_simulation_says_so() -> None:
    assert [finding.rule for finding in examine(setting(llm_config=None), honest())] == ["ceiling"]
    emulated = {**V6E, "experimental_configs": {"emulated_slice": {}}}
    assert [finding.rule for finding in examine(setting(llm_config=emulated), honest())] == ["simulated"]


def test_a_sweep_that_rests_on_a_refused_run_found_nothing() -> None:
    found = Result(setting=setting(), runs=[honest()], best_rate=10)
    assert best_rate(found) == 10
    found.runs[0].client.cpu_share = 0.95
    assert best_rate(found) is None


def test_counts_that_contradict_each_other_are_noticed() -> None:
    def spoilt(usage: Usage) -> str | None:
        [answer] = answers(1)
        answer.usage = usage
        return run([answer]).checks.wrong_count_example

    assert spoilt(Usage(100, 20)) is None
    assert spoilt(Usage(100, 19)) == "usage says 19 output tokens, 20 were asked for"
    assert spoilt(Usage(90, 20)) == "usage says 90 prompt tokens, 100 were sent"
    assert spoilt(Usage(900, 20)) == "usage says 900 prompt tokens, 100 were sent"

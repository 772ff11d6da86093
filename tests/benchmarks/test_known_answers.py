"""Loads on servers whose timing is set: the benchmark must find it, and report faults, pauses and its own slowness."""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.serving.command import execute
from benchmarks.serving.files import Stored
from benchmarks.serving.options import parse
from benchmarks.serving.result import Run
from benchmarks.serving.terminal import LoadProgress
from benchmarks.serving.validation import Finding, validate
from tests.benchmarks.known import Running, Timing, running
from tests.benchmarks.matrix import FULL, SHORT, TOLERANCE, Case, measure


def measured(server: Running, *more: str) -> tuple[Stored, dict[str, Any]]:
    """A result with its records, and what the server did meanwhile (with the warm-up)."""
    common = ["--url", server.url, "--profile", "completions", "--prompt-tokens", "32", "--warmup", "8"]
    return execute(parse([*common, *more])), server.stats()


def only(stored: Stored) -> tuple[Run, list[Finding]]:
    [run] = stored.result.runs
    assert stored.records
    return run, validate(stored.result.setting, run, stored.records[0])


def holds(case: Case) -> None:
    case_run = measure(case)
    wrong = {name: f"{error:.1%}" for name, error in case_run.errors().items() if error > TOLERANCE}
    assert not wrong, f"{wrong}, {case.name}: {case_run.run.figures}"


@pytest.mark.parametrize("case", SHORT, ids=lambda case: case.name)
def test_a_known_answer_is_found(case: Case) -> None:
    holds(case)


@pytest.mark.full
@pytest.mark.parametrize("case", FULL[::3], ids=lambda case: case.name)  # all of them: python -m tests.benchmarks.matrix
def test_more_known_answers_are_found(case: Case) -> None:
    holds(case)


@pytest.mark.full
def test_hundreds_of_clients_in_two_processes_are_all_served() -> None:
    with running(Timing(ttft=0.5, tpot=0.05)) as server:
        load = ["--output-tokens", "9", "--clients", "512", "--requests", "1024", "--warmup", "0", "--duration", "60"]
        stored, sent = measured(server, *load, "--processes", "2")
    run, findings = only(stored)
    assert (run.completed, run.output_tokens, run.errors) == (1024, 9 * 1024, {})
    assert sent["max_in_flight"] <= run.max_in_flight <= 512
    assert not [finding for finding in findings if finding.rule in ("repeated", "tokens", "figures")]


def test_open_loop_sends_when_it_should_whatever_the_server_does() -> None:
    """The server stands still for a second: requests that were due in it are sent late or answered late, and count so."""
    with running(Timing(ttft=0.02, tpot=0.002)) as server:

        def pause() -> None:
            time.sleep(1.5)
            os.kill(server.pid, signal.SIGSTOP)
            time.sleep(1)
            os.kill(server.pid, signal.SIGCONT)

        threading.Thread(target=pause).start()
        load = ["--output-tokens", "5", "--rate", "60", "--arrivals", "constant", "--duration", "4"]
        stored, _ = measured(server, *load)
    run, _ = only(stored)
    assert run.sent == run.completed == 240
    assert stored.records
    ttft_ms = [record.events[0] / 1000 for record in stored.records[0]]
    # 36 of 240 were due in the first 0.6 s of the pause; a closed loop would see 1 for each client
    assert sum(each > 400 for each in ttft_ms) >= 24
    assert max(ttft_ms) > 800
    assert run.max_in_flight >= 20


def test_faults_are_what_they_are() -> None:
    timing = Timing(ttft=0.02, tpot=0.002, error_every=10, drop_every=13, stall_every=7, stall=0.4, miscount_every=11)
    with running(timing) as server:
        stored, sent = measured(server, "--output-tokens", "20", "--clients", "10", "--requests", "200", "--warmup", "0")
    run, findings = only(stored)
    faults = sent["faults"]
    # the one request that the template was measured by is not of the load, and too early for a fault
    assert run.errors == {"HTTP 503": faults["refused"], "connection lost": faults["dropped"]}
    assert "known fault" in run.error_examples["HTTP 503"]
    reasons = [finding.reason for finding in findings if finding.rule == "tokens"]
    assert f"disagree in {faults['miscounted']} of" in reasons[0]
    assert "usage reports 19 output tokens, 20 were requested" in reasons[0]
    assert stored.records
    stalls = sum(gap > 390_000 for record in stored.records[0] if record.is_ok for gap in record.events[1:])
    assert stalls == pytest.approx(faults["stalled"], abs=5)  # other waits of a machine are seldom so long
    assert {"tokens", "errors"} <= {finding.rule for finding in findings}


def test_a_client_that_is_too_slow_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(self: LoadProgress, label: str, seen: object) -> None:  # noqa: ARG001
        time.sleep(0.02)

    monkeypatch.setattr(LoadProgress, "update", work)
    with running(Timing(ttft=0.02, tpot=0.001)) as server:
        stored, _ = measured(server, "--output-tokens", "5", "--rate", "100", "--duration", "1")
    _, findings = only(stored)
    assert any(
        "late by" in finding.reason for finding in findings if finding.rule == "client" and finding.severity == "invalid"
    )


def test_a_short_pause_of_the_client_is_seen_in_a_closed_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []

    def pause_once(self: LoadProgress, label: str, seen: object) -> None:  # noqa: ARG001
        if not paused and label != "warm-up":
            paused.append(time.perf_counter())
            time.sleep(0.5)

    monkeypatch.setattr(LoadProgress, "update", pause_once)
    with running(Timing(ttft=0.1, tpot=0.01, cached_percent=1)) as server:
        stored, _ = measured(server, "--output-tokens", "5", "--clients", "4", "--duration", "3")
    run, findings = only(stored)
    assert run.client
    assert 0 < max(sample.running or 0 for sample in run.server) <= 4  # by the server's own metrics
    assert run.client.longest_pause_ms >= 480
    assert "client" in {finding.rule for finding in findings}


def test_a_reasoning_model_has_two_first_tokens_and_a_role_is_none() -> None:
    with running(Timing(ttft=0.05, tpot=0.02, reasoning=10)) as server:
        stored, _ = measured(server, "--profile", "chat", "--output-tokens", "20", "--clients", "4", "--requests", "24")
    run, _ = only(stored)
    assert stored.records
    assert {(len(record.events), record.text_at, record.content_at) for record in stored.records[0]} == {(20, 0, 10)}
    first, content = run.figures["ttft_p50_ms"], run.figures["ttfc_p50_ms"]
    assert first
    assert content
    assert first >= 50
    assert content - first == pytest.approx(200, rel=0.1)


def test_a_blank_sent_at_once_is_flagged() -> None:
    with running(Timing(ttft=0.01, tpot=0.002, blank=0.3)) as server:
        stored, _ = measured(server, "--output-tokens", "10", "--clients", "4", "--requests", "24")
    _, findings = only(stored)
    assert any("answers began with a blank" in finding.reason for finding in findings)


FALSE_CLAIMS = {
    "half of the tokens": (Timing(withheld_percent=50), "sampled responses show"),
    "too many prompt tokens": (Timing(prompt_percent=147), "prompt tokens, "),
    "45 % refused": (Timing(error_every=2, error_status=429), "50% of the requests failed"),
    "a cache that nobody declared": (Timing(cached_usage_percent=30), "are shared"),
}


@pytest.mark.parametrize(("timing", "words"), FALSE_CLAIMS.values(), ids=FALSE_CLAIMS)
def test_a_server_that_claims_too_much_is_refused(timing: Timing, words: str) -> None:
    lengths = ["--profile", "chat", "--spread", "0", "--output-tokens", "10"]
    with running(replace(timing, ttft=0.01, tpot=0.002)) as server:
        stored, _ = measured(server, *lengths, "--clients", "4", "--requests", "40")
    _, findings = only(stored)
    assert any(words in finding.reason for finding in findings if finding.severity == "invalid"), findings


def test_cache_hits_that_nobody_declared_are_found_in_the_metrics_and_invalid() -> None:
    with running(Timing(ttft=0.01, tpot=0.001, cached_percent=30)) as server:
        stored, _ = measured(server, "--output-tokens", "3", "--clients", "4", "--requests", "40")
    run, findings = only(stored)
    assert run.cached_by == "metrics"
    assert run.figures["cache_hit_rate"] == pytest.approx(0.3, abs=0.01)
    assert "cache" in {finding.rule for finding in findings if finding.severity == "invalid"}


def test_timeouts_end_a_load_by_themselves() -> None:
    with running(Timing(ttft=30)) as server:
        stored, _ = measured(server, "--clients", "3", "--duration", "1", "--timeout", "0.5", "--warmup", "0")
    run, _ = only(stored)
    assert set(run.errors) == {"timeout"}
    assert run.completed == 0
    assert run.elapsed_s < 10
    assert run.figures["ttft_p50_ms"] is None


def test_a_trace_is_sent_at_its_times_in_its_lengths_and_ends_with_the_duration(tmp_path: Path) -> None:
    """Mooncake's form: milliseconds, and blocks of 512 tokens by id, of which these prompts have the first in common."""
    trace = tmp_path / "trace.jsonl"
    row = '{"timestamp": %d, "input_length": %d, "output_length": %d, "hash_ids": [7, %d]}'
    rows = [row % (5000 + 100 * number, 600 + number, 3 + number % 3, 100 + number) for number in range(20)]
    trace.write_text("\n".join([*rows, row % (3_600_000, 600, 3, 9)]))
    with running(Timing(ttft=0.02, tpot=0.001)) as server:
        stored, sent = measured(server, "--trace", str(trace), "--duration", "4")
    run, findings = only(stored)
    assert (run.completed, run.errors) == (20, {})
    assert 1.85 <= sent["elapsed_s"] < 30
    assert stored.records
    records = sorted(stored.records[0], key=lambda record: record.intended)
    assert [record.prompt_tokens for record in records] == [600 + number + 1 for number in range(20)]
    assert [record.output_tokens for record in records] == [3 + number % 3 for number in range(20)]
    assert len({record.blocks[: 8 * 30] for record in records}) == 1
    assert not [finding for finding in findings if finding.rule in ("repeated", "tokens")]


@pytest.mark.full
def test_multi_turn_and_chat_are_counted_right() -> None:
    with running(Timing(ttft=0.01, tpot=0.001)) as server:
        load = ["--profile", "multi-turn", "--turns", "3", "--output-tokens", "6", "--clients", "2", "--requests", "24"]
        stored, _ = measured(server, *load)
    run, findings = only(stored)
    assert run.errors == {}
    assert not [finding for finding in findings if finding.rule in ("repeated", "tokens")]
    assert stored.records
    assert sum(record.declared_shared_tokens or 0 for record in stored.records[0]) > 24 * 256


@pytest.mark.full
def test_cancelled_answers_are_neither_errors_nor_measured_to_their_end() -> None:
    with running(Timing(ttft=0.01, tpot=0.005)) as server:
        stored, _ = measured(server, "--output-tokens", "20", "--clients", "4", "--requests", "60", "--cancel", "0.5")
    run, _ = only(stored)
    assert run.errors == {}
    assert 10 <= run.cancelled <= 50
    assert run.cancelled + run.completed == 60


@pytest.mark.full
def test_mixtures_and_images_are_sent() -> None:
    with running(Timing(ttft=0.01, tpot=0.001)) as server:
        load = ["--output-tokens", "3", "--clients", "4", "--requests", "40", "--profile", "chat=1,image=1"]
        stored, _ = measured(server, *load)
    run, findings = only(stored)
    assert (run.completed, run.errors) == (40, {})
    assert stored.records
    assert len({record.calibrated for record in stored.records[0]}) == 2
    assert not [finding for finding in findings if finding.rule == "repeated"]

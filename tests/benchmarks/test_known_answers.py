"""A load on servers whose timing is set: the benchmark must find it, and report faults, pauses and its own slowness.

What the server sent when, by its own clock, is what counts: a busy machine makes it late too. That both wait for
a core beside that is allowed for, as far as the two have measured it themselves.
"""

import argparse
import os
import signal
import threading
import time
from typing import Any

import pytest

from benchmarks.serving.command import execute
from benchmarks.serving.load import Sender
from benchmarks.serving.options import parse
from benchmarks.serving.result import Result, Run
from benchmarks.serving.terminal import LoadProgress
from benchmarks.serving.validation import validate
from tests.benchmarks.known import Running, Timing, running


def options(server: Running, *more: str) -> argparse.Namespace:
    common = ["--url", server.url, "--profile", "completions", "--prompt-tokens", "32", "--warmup", "8"]
    return parse([*common, *more])


def measured(server: Running, *more: str) -> tuple[Result, dict[str, Any]]:
    """A result, and what the server did meanwhile (with the warm-up)."""
    return execute(options(server, *more)), server.stats()


def near(run: Run, name: str, percent: int, sent: dict[str, Any], waits: float) -> None:
    """Within 3 % of what the server sent, and `waits` times what both processes waited for a core."""
    measured_ms, real = run.figures[f"{name}_p{percent}_ms"], 1000 * sent[f"{name}_s"][f"p{percent}"]
    assert measured_ms is not None
    lag = (run.client.lag.percentile(99) or 0.0) + 1000 * sent["lag_p99_s"]
    assert abs(measured_ms - real) <= 0.03 * real + waits * lag, (
        f"{name} p{percent}: server {real:.2f}, measured {measured_ms:.2f} ms"
    )


@pytest.mark.parametrize("clients", [1, 64, 512])
def test_set_times_are_recovered(clients: int) -> None:
    count = str(max(20, 2 * clients))
    with running(Timing(ttft=0.12, tpot=0.012)) as server:
        asked = ["--output-tokens", "9", "--clients", str(clients), "--requests", count, "--warmup", "0", "--duration", "60"]
        result, sent = measured(server, *asked)
    [run] = result.runs
    assert run.completed == int(count)
    assert sent["max_in_flight"] == run.max_in_flight == clients
    near(run, "ttft", 50, sent, waits=2)
    near(run, "tpot", 50, sent, waits=0.2)
    near(run, "e2e", 50, {"e2e_s": {"p50": sent["ttft_s"]["p50"] + 8 * sent["tpot_s"]["p50"]}, **sent}, waits=4)
    assert run.output_tokens == sent["tokens"] == 9 * int(count)
    rate = sent["tokens"] / sent["elapsed_s"]
    assert (run.figures["output_tok_per_s"] or 0) <= 1.02 * rate
    # 2 % below, and what a first connection of all clients at once takes
    assert run.elapsed_s <= 1.02 * sent["elapsed_s"] + 0.5


def test_open_loop_sends_when_it_should_whatever_the_server_does() -> None:
    """The server stands still for a second: requests that were due in it are sent late or answered late, and count so."""
    with running(Timing(ttft=0.02, tpot=0.002)) as server:
        stop = threading.Timer(1.5, os.kill, (server.pid, signal.SIGSTOP))
        go_on = threading.Timer(2.5, os.kill, (server.pid, signal.SIGCONT))
        stop.start()
        go_on.start()
        load = ["--output-tokens", "5", "--rate", "60", "--arrivals", "constant", "--duration", "4"]
        result, _ = measured(server, *load)
    [run] = result.runs
    assert run.sent == run.completed == 240
    values, shares = run.ttft.curve()
    waited = 1 - next(share for value, share in zip(values, shares, strict=True) if value > 400)
    assert waited >= 0.1  # 36 of 240 were due in the first 0.6 s of the pause; a closed loop would see 1 for each client
    assert run.ttft.maximum is not None
    assert run.ttft.maximum > 800
    assert run.max_in_flight >= 20


def test_faults_are_what_they_are() -> None:
    timing = Timing(ttft=0.02, tpot=0.002, error_every=10, drop_every=13, stall_every=7, stall=0.4, miscount_every=11)
    with running(timing) as server:
        result, sent = measured(server, "--output-tokens", "20", "--clients", "10", "--requests", "200", "--warmup", "0")
    [run] = result.runs
    faults = sent["faults"]
    assert run.errors == {"HTTP 503": faults["refused"], "connection lost": faults["dropped"]}
    assert "known fault" in run.error_examples["HTTP 503"]
    assert run.checks.wrong_counts == faults["miscounted"]
    assert run.checks.wrong_count_example == "usage reports 19 output tokens, 20 were requested"
    assert run.itl.maximum is not None
    assert run.itl.maximum >= 400
    values, shares = run.itl.curve()
    stalls = (1 - max(share for value, share in zip(values, shares, strict=True) if value < 300)) * run.itl.count
    assert stalls == pytest.approx(faults["stalled"], abs=5)  # other waits of a machine are seldom so long
    assert {"tokens", "errors"} <= {finding.rule for finding in validate(result.setting, run)}


def test_a_client_that_is_too_slow_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(self: LoadProgress, label: str, sender: Sender, tally: object) -> None:  # noqa: ARG001
        time.sleep(0.02)

    monkeypatch.setattr(LoadProgress, "update", work)
    with running(Timing(ttft=0.02, tpot=0.001)) as server:
        result, _ = measured(server, "--output-tokens", "5", "--rate", "100", "--duration", "1")
    [run] = result.runs
    assert run.client.late.maximum is not None
    assert (run.ttft.maximum or 0) >= run.client.late.maximum  # its own lateness is in the latency
    reasons = [f.reason for f in validate(result.setting, run) if f.rule == "client" and f.severity == "invalid"]
    assert any("late by" in reason for reason in reasons)


def test_several_tokens_in_an_event_are_counted_by_usage() -> None:
    with running(Timing(ttft=0.05, tpot=0.01, tokens_per_event=4)) as server:
        result, sent = measured(server, "--output-tokens", "21", "--clients", "4", "--requests", "40", "--warmup", "0")
    [run] = result.runs
    assert run.output_tokens == 40 * 21
    near(run, "tpot", 50, sent, waits=0.2)
    itl = run.figures["itl_p50_ms"]
    assert itl is not None
    assert itl >= 30  # an event with four tokens comes after four times the time


def test_cache_hits_that_nobody_declared_are_found_in_the_metrics_and_invalid() -> None:
    with running(Timing(ttft=0.01, tpot=0.001, cached_percent=30)) as server:
        result, _ = measured(server, "--output-tokens", "3", "--clients", "4", "--requests", "40")
    [run] = result.runs
    assert run.checks.cached_by == "metrics"
    assert run.figures["cache_hit_rate"] == pytest.approx(0.3, abs=0.01)
    assert "cache" in {finding.rule for finding in validate(result.setting, run) if finding.severity == "invalid"}


def test_timeouts_end_a_load_by_themselves() -> None:
    with running(Timing(ttft=30)) as server:
        result, _ = measured(server, "--clients", "3", "--duration", "1", "--timeout", "0.5", "--warmup", "0")
    [run] = result.runs
    assert set(run.errors) == {"timeout"}
    assert run.completed == 0
    assert run.elapsed_s < 10
    assert run.figures["ttft_p50_ms"] is None


def test_a_trace_is_sent_at_its_times(tmp_path: Any) -> None:
    trace = tmp_path / "trace"
    trace.write_text("\n".join(str(10 + 0.1 * number) for number in range(20)))
    with running(Timing(ttft=0.02, tpot=0.001)) as server:
        result, sent = measured(server, "--output-tokens", "3", "--trace", str(trace), "--warmup", "0")
    assert result.runs[0].completed == 20
    assert sent["elapsed_s"] >= 1.85


def test_multi_turn_and_chat_are_counted_right() -> None:
    with running(Timing(ttft=0.01, tpot=0.001)) as server:
        load = ["--profile", "multi-turn", "--turns", "3", "--output-tokens", "6", "--clients", "2", "--requests", "12"]
        result, _ = measured(server, *load)
    [run] = result.runs
    assert run.errors == {}
    assert run.checks.wrong_counts == 0
    assert run.checks.repeated_prompts == 0
    assert run.checks.declared_shared_tokens > 12 * 256

"""The command: what it takes and refuses, what it writes, and the sweep's search."""

import json
from pathlib import Path

import pytest

from apps.common.errors import UserError
from benchmarks.serving.__main__ import main
from benchmarks.serving.command import execute
from benchmarks.serving.files import read
from benchmarks.serving.options import parse
from benchmarks.serving.result import Best, Load, Run, Slo
from benchmarks.serving.sweep import sweep
from benchmarks.serving.validation import validate, validated_runs
from tests.benchmarks import records
from tests.benchmarks.known import Timing, running


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rate", "fast"], "'fast' is not a number from 0.001"),
        (["--rate", "1", "--clients", "2"], "--rate and --clients: give one of them"),
        (["--slo", "ttft=1"], "'ttft=1' is not a limit"),
        (["--sweep"], "--sweep needs one --rate"),
        (["--clients", "2", "--arrivals", "ramp"], "--arrivals needs --rate"),
        (["--url", "127.0.0.1:8000"], "give for example http://127.0.0.1:8000"),
        (["--url", "http://10.0.0.7:8000"], "10.0.0.7 is not this machine: give --allow-host 10.0.0.7"),
        (["--duration", "1e9"], "not a number from 0.1 to 3600"),
        (["--profile", "poems"], "'poems' is no profile: give some of chat, completions"),
        (["--profile", "chat=often"], "'often' is not a number from 0.001"),
        (["--out", "-", "--json"], "--out - and --json: give one of them"),
    ],
)
def test_bad_options(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_limits_and_addresses_are_understood() -> None:
    options = parse(["--url", "http://localhost:1/v1/", "--slo", "ttft=1.5s, tpot=50ms", "--rate", "1,2.5"])
    assert options.url == "http://localhost:1"
    assert options.slo == {"ttft": 1500, "tpot": 50}
    assert options.rate == [1, 2.5]
    assert parse(["--url", "http://10.0.0.7:1", "--allow-host", "10.0.0.7"]).clients == [8]


def test_no_server_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", "http://127.0.0.1:9"]) == 1
    error = capsys.readouterr().err
    assert "http://127.0.0.1:9/v1/models" in error
    assert "Traceback" not in error


def test_a_result_is_written_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "serve.yaml"
    llm_config = {"model_loading_config": {"model_id": "known"}, "engine_kwargs": {"max_num_seqs": 4}}
    config.write_text(json.dumps({"applications": [{"args": {"llm_configs": [llm_config]}}]}))
    out = tmp_path / "deep" / "r.json"
    with running(Timing(ttft=0.01, tpot=0.001)) as server:
        load = ["--url", server.url, "--clients", "2,4", "--requests", "30", "--output-tokens", "4", "--prompt-tokens", "16"]
        assert main([*load, "--config", str(config), "--slo", "ttft=1s", "--out", str(out)]) == 0
        assert main([*load, "--model", "other"]) == 2
        assert "this server has known" in capsys.readouterr().err
        assert main([*load, "--profile", "json"]) == 1  # the server knows no JSON, which the warm-up reports
        assert "answer not of the schema" in capsys.readouterr().err
    stored = read(out)
    result = stored.result
    assert [run.load.label for run in result.runs] == ["2 clients", "4 clients"]
    assert [run.completed for run in result.runs] == [30, 30]
    assert result.setting.llm_config == llm_config
    assert len(result.setting.serve_config_digest or "") == 64
    assert result.setting.versions["uvloop"]
    assert stored.records
    for run, kept in zip(result.runs, stored.records, strict=True):
        assert {finding.rule for finding in validate(result.setting, run, kept)}.isdisjoint(
            {"figures", "repeated", "unverified"}
        )


def test_a_result_is_read_from_a_jobs_log_and_is_unverified_without_its_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(Timing(ttft=0.01, tpot=0.001)) as server:
        load = ["--url", server.url, "--clients", "2", "--requests", "30", "--output-tokens", "4", "--repeat", "2"]
        assert main([*load, "--out", "-"]) == 0
    log, summary = tmp_path / "job.log", tmp_path / "summary.json"
    lines = capsys.readouterr().out.splitlines()
    log.write_text("\n".join(["2026-11-29 INFO job_manager.py: Runtime env is setting up.", *lines, "Job succeeded"]))
    stored = read(log)
    assert stored.records
    assert [(run.repeat, len(kept)) for run, kept in zip(stored.result.runs, stored.records, strict=True)] == [(0, 30), (1, 30)]
    summary.write_text(lines[0])
    assert read(summary).why_not == "the records of its requests are not there"
    log.write_text("\n".join([lines[0], *lines[2:]]))
    assert "another SHA-256" in read(log).why_not
    log.write_text("no result")
    with pytest.raises(UserError, match="nor the output of"):
        read(log)


def swept(first: float, highest: float, unsteady: float = 0.0) -> tuple[list[Run], list[float], Best | None]:
    """A sweep on a server that holds the SLO up to a rate; at one rate only in the first of its runs."""
    rates: list[float] = []

    def measure(load: Load, repeat: int) -> Run:
        assert load.rate
        rates.append(load.rate)
        slow = load.rate > highest or (repeat and load.rate > unsteady > 0)
        kept = records.recorded(records.responses(20, ttft=3 if slow else 0.1, tpot=0.001, every=1 / load.rate))
        run = records.run(kept, Slo(ttft_ms=1000))
        return run.model_copy(update={"load": load, "repeat": repeat})

    runs, best = sweep(Load(arrivals="poisson", rate=first, timeout_s=60), measure)
    return runs, rates, best


def test_the_sweep_finds_the_highest_rate_that_holds_twice() -> None:
    runs, rates, best = swept(0.2, 3.7)
    assert best is not None
    assert 3.7 / 1.1 <= best.rate <= 3.7
    assert best.achieved_per_s == pytest.approx(best.rate, rel=0.05)
    assert rates.count(best.rate) == 2
    assert [run.load.rate for run in runs] == rates
    assert len(rates) <= 14
    assert swept(1e6, 1)[2] is None


def test_the_runs_of_a_sweep_are_in_the_order_of_their_rates_with_their_own_records() -> None:
    load = ["--rate", "40", "--sweep", "--slo", "ttft=1s", "--requests", "30", "--output-tokens", "4", "--prompt-tokens", "16"]
    with running(Timing(ttft=0.05, tpot=0.001)) as server:
        stored = execute(parse(["--url", server.url, *load]))
    runs = stored.result.runs
    assert [run.load.rate for run in runs] == sorted(run.load.rate or 0 for run in runs)
    assert len(runs) > 3
    assert "figures" not in {finding.rule for each in validated_runs(stored) for finding in each.findings}


def test_a_rate_that_holds_only_once_is_not_the_answer() -> None:
    _, _, best = swept(0.2, 3.7, unsteady=3.0)
    assert best is None or best.rate <= 3.0


def test_a_dataset_lasts_for_every_load_of_the_command(tmp_path: Path) -> None:
    rows = [{"conversations": [{"from": "human", "value": f"word {n}"}, {"from": "gpt", "value": "a b c"}]} for n in range(100)]
    dataset, out = tmp_path / "sharegpt.json", tmp_path / "r.json"
    dataset.write_text(json.dumps(rows))
    with running(Timing()) as server:
        load = ["--clients", "2,3", "--requests", "20", "--warmup", "0", "--dataset", str(dataset), "--out", str(out)]
        assert main(["--url", server.url, *load]) == 0
    assert [run.load.clients for run in read(out).result.runs] == [2, 3]


def test_a_trace_with_lengths_is_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"timestamp": 0, "input_length": 16, "output_length": 4, "hash_ids": [1]}\n')
    with running(Timing()) as server:
        assert main(["--url", server.url, "--trace", str(trace), "--repeat", "2"]) == 2
    assert "--trace with lengths and --repeat" in capsys.readouterr().err

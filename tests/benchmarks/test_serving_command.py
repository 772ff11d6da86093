"""The command: what it takes and refuses, and the sweep's search."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.serving.__main__ import main
from benchmarks.serving.measure import Bench
from benchmarks.serving.options import parse
from benchmarks.serving.result import Load, Run, Slo, read
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
        (["--profile", "poems"], "invalid choice"),
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
    result = read(out)
    assert [run.load.label for run in result.runs] == ["2 clients", "4 clients"]
    assert [run.completed for run in result.runs] == [30, 30]
    assert result.setting.llm_config == llm_config
    assert len(result.setting.serve_config_digest or "") == 64
    assert result.setting.versions["uvloop"]
    assert [run.checks.repeated_prompts for run in result.runs] == [0, 0]


def test_the_sweep_finds_the_highest_rate_that_holds() -> None:
    rates: list[float] = []

    class Simulated(Bench):
        def __init__(self) -> None:
            pass

        async def run(self, load: Load, offsets: Any = None) -> Run:  # noqa: ARG002
            assert load.rate
            rates.append(load.rate)
            run = records.run(records.responses(20, ttft=0.1 if load.rate <= 37 else 3), Slo(ttft_ms=1000))
            return run.model_copy(update={"load": load})

    runs, best = asyncio.run(Simulated().sweep(Load(arrivals="poisson", rate=2, timeout_s=60)))
    assert best is not None
    assert 37 / 1.1 <= best <= 37
    assert [run.load.rate for run in runs] == sorted(rates)
    assert len(rates) <= 12
    _, none = asyncio.run(Simulated().sweep(Load(arrivals="poisson", rate=1e6, timeout_s=60)))
    assert none is None

"""`rts bench check` and the report on results of other tools. `outputs/` has requests of their real runs, others left out."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report.__main__ import main as report
from benchmarks.serving.__main__ import main
from benchmarks.serving.files import read

OUTPUTS = Path(__file__).parent / "outputs"


def test_vllm_bench_serve_is_read_as_it_writes() -> None:
    stored = read(OUTPUTS / "vllm.json")
    [run] = stored.result.runs
    assert (stored.result.setting.tool, run.load.rate, run.completed, run.output_tokens) == ("vllm bench serve", 20, 3, 120)
    assert run.figures["ttft_p50_ms"] == pytest.approx(204, rel=0.02)  # of a server with 200 ms and 10 ms
    assert run.figures["tpot_p50_ms"] == pytest.approx(10, rel=0.02)
    assert run.figures["itl_p50_ms"] == pytest.approx(10, rel=0.05)
    assert run.figures["cache_hit_rate"] is None


def test_aiperf_is_read_as_it_writes_and_counts_from_when_it_was_due() -> None:
    stored = read(OUTPUTS / "aiperf.jsonl")
    assert stored.records
    [run], [records] = stored.result.runs, stored.records
    assert (stored.result.setting.tool, run.completed, run.output_tokens) == ("aiperf", 3, 120)
    lines = [json.loads(line) for line in (OUTPUTS / "aiperf.jsonl").read_text().splitlines()]
    for record, line in zip(records, lines, strict=True):
        waited_ms = (line["metadata"]["request_start_ns"] - line["metadata"]["credit_issued_ns"]) / 1e6
        assert record.events[0] / 1000 == pytest.approx(waited_ms + line["metrics"]["time_to_first_token"]["value"], abs=0.01)


def test_inference_perf_is_read_by_its_chunks_and_not_by_the_times_that_it_infers() -> None:
    stored = read(OUTPUTS / "inference_perf.json")
    assert stored.records
    [run], [records] = stored.result.runs, stored.records
    assert (stored.result.setting.tool, run.completed, run.output_tokens) == ("inference-perf", 3, 192)
    assert {len(record.events) for record in records} == {8}  # of eight tokens each
    assert len({record.prompt for record in records}) == 3
    assert run.figures["tpot_p50_ms"] == pytest.approx(10, rel=0.02)


def test_guidellm_is_read_as_it_writes_and_counts_from_when_it_was_due() -> None:
    stored = read(OUTPUTS / "guidellm.json")
    assert stored.records
    [run], [records] = stored.result.runs, stored.records
    assert (stored.result.setting.tool, run.load.rate, run.completed, run.output_tokens) == ("guidellm", 20, 3, 192)
    timings = json.loads((OUTPUTS / "guidellm.json").read_text())["benchmarks"][0]["requests"]["successful"][0]["info"][
        "timings"
    ]
    assert records[0].events[0] / 1e6 == pytest.approx(timings["first_token_iteration"] - timings["targeted_start"], abs=1e-5)
    assert run.figures["tpot_p50_ms"] == pytest.approx(10, rel=0.02)
    assert run.figures["itl_p50_ms"] is None  # only the first and the last time are there
    assert len({record.prompt for record in records}) == 3


def vllm_result(tmp_path: Path, requests: int, **changes: Any) -> Path:
    """A result in the form of vLLM's with as many requests as its rules need."""
    value = json.loads((OUTPUTS / "vllm.json").read_text())
    for name, entry in {
        "input_lens": 100,
        "output_lens": 20,
        "ttfts": 0.5,
        "itls": [0.05] * 19,
        "errors": "",
        **changes,
    }.items():
        value[name] = [entry] * requests
    value["start_times"] = [0.1 * number for number in range(requests)]
    file = tmp_path / "vllm.json"
    file.write_text(json.dumps(value))
    return file


def config(tmp_path: Path) -> str:
    llm_config = {
        "model_loading_config": {"model_id": "google/gemma-4-31B-it"},
        "accelerator_type": "TPU-V6E",
        "accelerator_config": {"kind": "tpu", "topology": "2x2"},
        "engine_kwargs": {"tensor_parallel_size": 4},
    }
    file = tmp_path / "serve.yaml"
    file.write_text(json.dumps({"applications": [{"args": {"llm_configs": [llm_config]}}]}))
    return str(file)


def test_what_cannot_be_true_of_another_tools_result_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = ["--config", config(tmp_path), "--model", "google/gemma-4-31B-it"]
    assert main(["check", str(vllm_result(tmp_path, 120)), *known]) == 0
    output = capsys.readouterr().out
    assert "does not record when requests were meant to be sent" in output
    assert "120 prompts are not known: some may repeat" in output
    assert main(["check", str(vllm_result(tmp_path, 120, itls=[0.001] * 19)), *known, "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)[str(tmp_path / "vllm.json")]["runs"][0]["findings"]
    assert any("ms TPOT is less than" in finding["reason"] for finding in findings if finding["severity"] == "invalid")
    assert main(["check", str(vllm_result(tmp_path, 120, itls=[0.05] * 29))]) == 1
    assert "usage reports 20 output tokens, 30 events with text came" in capsys.readouterr().out


def test_a_report_of_another_tools_result_has_the_same_page(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert report([str(vllm_result(tmp_path, 120)), "--out", str(page)]) == 0
    assert "Key figures" in page.read_text()


def test_what_is_no_result_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"ttfts": [1]}')
    assert main(["check", str(broken)]) == 2
    assert "looks like vllm bench serve's output, but KeyError: 'start_times'" in capsys.readouterr().err
    broken.write_text("[]")
    assert main(["check", str(broken)]) == 2
    assert "nor the output of vllm bench serve, aiperf, guidellm, inference-perf" in capsys.readouterr().err

"""`scripts/plan.py` as people and machines use it."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from apps.checks.command import main as validate
from apps.slice.models import model_id_of, shape_named
from apps.slice.topology import slice_of
from benchmarks.planner.command import main
from tests.slice.test_models import gemma_config

ROOT = Path(__file__).resolve().parents[3]
CONFIG = ROOT / "serve_configs" / "gemma.yaml"


def planned(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert main(["--json", *options]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The message on stderr of a command that ends with exit code 2."""
    try:
        code: Any = main(list(options))
    except SystemExit as end:
        code = end.code
    assert code == 2
    return capsys.readouterr().err


def test_the_tutorials_question(capsys: pytest.CaptureFixture[str]) -> None:
    answer = planned(capsys, "--model", "gemma-4-31b", "--topology", "4x4", "--slo", "ttft=1s,tpot=50ms", "--price", "2.7")
    assert answer["question"]["slo"] == {"ttft_s": 1.0, "tpot_s": 0.05}
    assert answer["question"]["bucket_bytes"] == pytest.approx(62.5e9, rel=0.01)
    layouts = {layout["name"]: layout for layout in answer["layouts"]}
    chosen = layouts[answer["recommended"]]
    assert chosen["fits"]
    assert chosen["dtype"] == chosen["kv_dtype"] == "bfloat16"
    assert chosen["longest_request_tokens"] >= 131_072
    assert answer["ranked"][0] == answer["recommended"]
    assert chosen["within_slo"]["slow"]["usd_per_million_output_tokens"] > 0
    assert set(layouts["1 x 4x4 DP4xTP4/bf16/bf16"]["sequences"]) == {"8192", "32768", "131072"}
    assert answer["why"]
    assert answer["risk"]


def test_people_read_a_table_the_choice_and_where_it_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--price", "2.7"]) == 0
    text = capsys.readouterr().out
    assert "| TP16/bf16/bf16 " in text
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in text.splitlines() if line.startswith("| ")]
    assert rows.index(["2 x 2x4", "TP8/bf16/bf16"]) < rows.index(["1 x 4x4", "TP16/bf16/bf16"])
    assert "**Recommended: 2 x 2x4 TP8/bf16/bf16.**" in text
    assert "$ per M output" in text
    assert "tpu-inference 0.29.0" in text


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--model", "llama"], "model 'llama' is not recorded"),
        (["--model", "/nowhere/config.json"], "cannot be read (No such file or directory)"),
        (["--model", str(ROOT / "pyproject.toml")], "is not the config.json of a language model"),
        (["--topology", "3x3"], "v6e has no topology '3x3': give one of 1x1, 2x2"),
        (["--accelerator", "v9"], "'v9' is no TPU generation"),
        (["--objective", "beauty"], "invalid choice: 'beauty'"),
        (["--cached", "1.5"], "'1.5' is not a number from 0 to 1"),
        (["--accepted", "much"], "'much' is not a number from 0 to 1"),
        (["--slo", "ttft=1"], "'ttft=1' is not a limit: give ttft, tpot in s or ms"),
        (["--slo", "ttft=1s,ttft=2s"], "'ttft=2s' is not a limit"),
        (["--slo", "tpot=-5ms"], "'tpot=-5ms' is not a limit"),
        (["--slo", ""], "is not a limit"),
        (["--price", "free"], "'free' is not a price above 0"),
        (["--prompt", "0"], "'0' is not a whole number from 1"),
        (["--prompt", "200000"], "more than --max-context"),
        (["--max-context", "300000"], "the model takes 262,144 tokens at most"),
        (["--layout", "TP16/bf16/bf16"], "give --write FILE with it"),
        (["--write", "/nowhere/serve.yaml"], "/nowhere/serve.yaml: cannot be written"),
        (["--write", str(CONFIG), "--layout", "TP3"], "'TP3' is not a layout that fits: give one of TP16/bf16/bf16"),
        (["--write", str(CONFIG), "--layout", "PP4xTP4/bf16/bf16"], "PP4xTP4/bf16/bf16 is not written: "),
        (["--write", str(CONFIG), "--layout", "TP16/fp8/fp8"], "fp8 weights change the answers"),
        (["--write", str(CONFIG), "--layout", "DP4xTP4/bf16/bf16"], "a request has"),
        (["--write", str(CONFIG), "--topology", "2x4"], "the file is for another slice than the plan, which has v6e 2x4"),
        (["--write", str(ROOT / "serve_configs" / "local.yaml")], "has 0 LLM configs with accelerator_config.kind tpu"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(capsys: pytest.CaptureFixture[str], options: list[str], fragment: str) -> None:
    before = CONFIG.read_text()
    message = refused(capsys, *options)
    assert fragment in message
    assert "Traceback" not in message
    assert CONFIG.read_text() == before


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            ["--slo", "tpot=1ms"],
            "No layout meets the SLO at the slow end of its prediction: one request alone takes at least 104 ms",
        ),
        (["--slo", "ttft=1ms"], "ms to the first token and 14.4 ms for each one after it"),
        (["--topology", "2x4", "--max-context", "262144"], "No layout holds a request of 262,144 tokens: at most 182,108"),
        (["--topology", "1x1"], "The weights fit no chip of v6e 1x1 in any layout: take more chips."),
    ],
)
def test_what_cannot_be_had_is_not_recommended(capsys: pytest.CaptureFixture[str], options: list[str], why: str) -> None:
    assert main([*options, "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["recommended"] is None
    assert why in answer["why"]
    assert main([*options, "--write", str(CONFIG)]) == 2
    assert f"there is nothing to write: {answer['why']}" in capsys.readouterr().err


def test_a_models_own_config_gives_the_same_layouts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(gemma_config()))
    for path in (tmp_path, tmp_path / "config.json"):
        own = planned(capsys, "--model", str(path))
        assert own["recommended"] == planned(capsys)["recommended"]
        assert own["question"]["bucket_bytes"] == pytest.approx(61.4e9, rel=0.01)  # without the vision encoder


@pytest.mark.parametrize("layout", [None, "DP2xTP8/bf16/bf16", "DP2xTP8/bf16/fp8", "TP16/bf16/fp8"])
def test_a_written_config_passes_the_checks_and_keeps_its_comments(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, layout: str | None
) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(CONFIG.read_text())
    answer = planned(capsys, "--write", str(file), *(["--layout", layout] if layout else []))
    name = f"1 x 4x4 {layout or 'TP16/bf16/bf16'}"  # the best for the file's slice
    written = next(choice for choice in answer["layouts"] if choice["name"] == name)
    config = yaml.safe_load(file.read_text())["applications"][0]["args"]["llm_configs"][0]
    engine = config["engine_kwargs"]
    assert engine["tensor_parallel_size"] == written["tensor_parallel"]
    assert engine.get("data_parallel_size", 1) == written["data_parallel"]
    assert engine.get("kv_cache_dtype", "bfloat16") == written["kv_dtype"]
    beyond = config["deployment_config"]["max_ongoing_requests"] - engine["max_num_seqs"] * written["data_parallel"]
    assert beyond == 2 * 256  # those that wait in the guard, and as many that it refuses
    assert "# without it vLLM TPU silently runs on one host only" in file.read_text()
    checked = subprocess.run([sys.executable, ROOT / "scripts" / "validate.py", file], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert "max_ongoing_requests" not in checked.stdout


def test_writing_again_changes_nothing_and_another_layout_can_be_taken_back(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(CONFIG.read_text())
    assert main(["--write", str(file)]) == 0
    first = file.read_text()
    assert main(["--write", str(file)]) == 0
    assert file.read_text() == first
    assert main(["--write", str(file), "--layout", "DP2xTP8/bf16/fp8"]) == 0
    assert main(["--write", str(file)]) == 0
    assert yaml.safe_load(file.read_text()) == yaml.safe_load(first)


@pytest.mark.parametrize("model", ["gemma-4-31b", "llama-3.3-70b", "qwen3-32b", "gpt-oss-120b", "gemma-3-27b"])
@pytest.mark.parametrize("chips", [("v6e", "4x4"), ("v6e", "2x4"), ("v5p", "2x2x2"), ("v7x", "2x2x1")], ids="-".join)
def test_a_config_is_made_for_any_model_and_passes_the_checks(tmp_path: Path, model: str, chips: tuple[str, str]) -> None:
    file = tmp_path / "serve.yaml"
    assert (
        main(
            [
                "--model",
                model,
                "--accelerator",
                chips[0],
                "--topology",
                chips[1],
                "--max-context",
                "32768",
                "--write",
                str(file),
            ]
        )
        == 0
    )
    [config] = yaml.safe_load(file.read_text())["applications"][0]["args"]["llm_configs"]
    assert config["model_loading_config"]["model_id"] == model_id_of(shape_named(model))
    slices = config["deployment_config"]["num_replicas"]
    on = slice_of(config["accelerator_type"], config["accelerator_config"]["topology"])
    assert slices * on.chips == slice_of(*chips).chips
    engine = config["engine_kwargs"]
    assert engine["tensor_parallel_size"] * engine.get("data_parallel_size", 1) == on.devices
    assert ("tool_call_parser" in engine) == (model == "gemma-4-31b")
    assert validate(["--slices", str(slices), str(file)]) == 0


def test_a_config_of_another_model_is_left_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = gemma_config()
    config["text_config"]["intermediate_size"] //= 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "serves another model than" in refused(capsys, "--model", str(tmp_path), "--write", str(CONFIG))


def test_a_config_that_would_not_pass_the_checks_is_left_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    broken = CONFIG.read_text().replace("enable_prefix_caching", "enable_prefix_cashing")
    file.write_text(broken)
    assert "did you mean enable_prefix_caching?" in refused(capsys, "--write", str(file))
    assert file.read_text() == broken


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    start = time.process_time()
    command = [sys.executable, "-X", "importtime", str(ROOT / "scripts" / "plan.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--write FILE" in done.stdout
    assert time.process_time() - start < 0.5
    assert not {"yaml", "rich", "jax", "numpy", "ray"} & {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}

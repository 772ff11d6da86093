"""`rts compile`: the real TPU engine over described chips, and what is done with what it says."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from apps.common.errors import UserError
from benchmarks.compile import results
from benchmarks.compile.command import main
from benchmarks.compile.environment import VARIABLES, ensure_environment
from benchmarks.compile.hlo import collectives, failure
from benchmarks.compile.request import request_for
from benchmarks.compile.results import Compiled
from benchmarks.compile.table import text
from benchmarks.planner.record import recorded

ROOT = Path(__file__).resolve().parents[2]
GEMMA = ROOT / "serve_configs" / "gemma.yaml"
RECORDED = recorded()
HLO = """
  %all-reduce.1 = bf16[128,5376]{1,0} all-reduce(bf16[128,5376]{1,0} %x), replica_groups={}
  %ag = (bf16[8,16]{1,0}, bf16[128,16]{1,0}) all-gather-start(bf16[8,16]{1,0} %y), dimensions={0}
  %done = bf16[128,16]{1,0} all-gather-done((bf16[8,16]{1,0}, bf16[128,16]{1,0}) %ag)
  ROOT %t = f32[] add(f32[] %a, f32[] %b)
"""
FITS = {
    **{"name": "backbone", "tokens": 128, "sizes": {}, "fits": True, "argument_bytes": 2**30, "temp_bytes": 2**20},
    **{"output_bytes": 0, "code_bytes": 1, "collectives": {"all-reduce": {"count": 3, "bytes": 2**21}}, "kernels": 12},
    **{"flops": 1.0, "bytes_accessed": 1.0, "lower_s": 1.0, "compile_s": 2.0},
}
ENGINE = {
    **{"parameters": 10**9, "weights_bytes_per_chip": 2**30, "kv_bytes_per_token_per_chip": 100.0, "kv_tokens": 1280},
    **{"kv_block_tokens": 128, "hbm_bytes": 100, "versions": {"jax": "0.11.0"}},
}


def compiled(*programs: dict[str, Any]) -> Compiled:
    return Compiled(request_for(GEMMA, None, None, None), ENGINE, [FITS], list(programs))


def test_collectives_are_counted_once_with_the_bytes_that_they_make() -> None:
    counted = collectives(HLO)
    assert counted["all-reduce"] == {"count": 1, "bytes": 128 * 5376 * 2}
    assert counted["all-gather"] == {"count": 1, "bytes": 128 * 16 * 2}
    assert counted["reduce-scatter"] == {"count": 0, "bytes": 0}


def test_the_compilers_words_say_what_a_program_needs() -> None:
    words = (
        "RESOURCE_EXHAUSTED: Ran out of memory: the total memory required for HLO temporaries (46.90G) exceeds available HBM "
        "(31.24G)"
    )
    assert failure(RuntimeError(words)) == {"fits": False, "needed_bytes": int(46.9 * 2**30), "message": words}
    assert failure(ValueError("odd shape\nmore"))["message"] == "odd shape"


def test_the_table_has_a_row_for_each_program_and_the_advice_for_one_that_does_not_fit() -> None:
    refused = {"name": "backbone", "tokens": 4096, "sizes": {}, "fits": False, "needed_bytes": 110, "message": "too large"}
    lines = text(compiled(FITS, refused)).splitlines()
    assert lines[2] == "| backbone | 128 | 1 | 1.000 | 1.0 | 3 all-reduce | 2.0 | 12 | 3 | yes |"
    assert lines[3].endswith("| no |")
    assert "backbone 4096: too large Lower gpu_memory_utilization from 0.9 to 0.8, which leaves room for it." in lines
    assert not compiled(FITS, refused).fits


def test_a_whole_start_is_expected_to_take_what_programs_of_the_same_names_took() -> None:
    other = {**FITS, "tokens": 256, "lower_s": 2.0, "compile_s": 5.0}
    result = Compiled(
        request_for(GEMMA, None, None, None), ENGINE, [FITS, other, FITS, {**FITS, "name": "sample"}], [FITS, other]
    )
    assert result.all_programs_s == 3 * (3 + 7) / 2
    assert "would take about 0 minutes on this machine" in text(result)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["serve_configs/local.yaml"], "its model is not on a TPU slice"),
        (["serve_configs/none.yaml"], "cannot be read"),
        (["serve_configs/gemma.yaml", "--layers=61"], "--layers is 61, but google/gemma-4-31B-it has 60"),
        (["serve_configs/gemma.yaml", "--topology=3x3"], "v6e has no topology '3x3'"),
        (["serve_configs/gemma.yaml", "--model=/nowhere"], "/nowhere: cannot be read"),
    ],
)
def test_bad_input_is_one_line(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_without_the_engines_python_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("benchmarks.compile.environment._home", lambda: tmp_path / "venv")
    monkeypatch.setattr("benchmarks.compile.environment._candidates", lambda: iter(()))
    assert main([str(GEMMA)]) == 2
    assert "the TPU engine needs Python 3.12" in capsys.readouterr().err


def test_a_line_that_was_cut_off_is_not_taken_for_a_result(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text(json.dumps({"event": "program", **FITS}) + "\n" + json.dumps({"event": "program", **FITS})[:40])
    assert len(list(results._stored(file))) == 1


def test_after_a_line_that_was_cut_off_everything_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line that follows must not become a part of it: without the engine's memory there would be no table."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    request = request_for(GEMMA, None, None, None)
    events = [{"event": "engine", **ENGINE}, {"event": "plan", "programs": [FITS]}, {"event": "program", **FITS}]
    monkeypatch.setattr(results, "ensure_environment", lambda _: Path("python"))
    monkeypatch.setattr(results, "_events", lambda *_: iter(events))
    file = results._file(request)
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(events[0])[:40])
    first = results.compile_programs(request, [], [], None)
    monkeypatch.setattr(results, "_events", lambda *_: pytest.fail("it was compiled already"))
    assert results.compile_programs(request, [], [], None) == first
    assert first.engine == ENGINE


def test_a_refusal_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    request = request_for(GEMMA, None, None, None)
    monkeypatch.setattr(results, "ensure_environment", lambda _: Path("python"))
    monkeypatch.setattr(results, "_events", lambda *_: iter([{"event": "refused", "message": "no room"}]))
    with pytest.raises(UserError, match="the engine refuses this config: no room"):
        results.compile_programs(request, [], [], None)
    assert list(results._stored(results._file(request))) == []


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.full
@pytest.mark.skipif(not os.environ.get("REQUIRE_COMPILER"), reason="installs 10 GB: REQUIRE_COMPILER=1 runs it")
class TestEngine:
    """The TPU engine's own environment is installed for these, once."""

    def run(self, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str) -> Any:
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        assert main([str(GEMMA), "--json", *options]) == 0
        return json.loads(capsys.readouterr().out)

    def test_a_cut_model_is_compiled_and_known_from_then_on(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = ("--layers=6", "--programs=backbone*", "--tokens=16")
        compiled = self.run(cache, monkeypatch, capsys, *options)
        assert [program["name"] for program in compiled["programs"]] == ["backbone", "backbone with embeds"]
        for program in compiled["programs"]:
            assert program["fits"]
            assert program["kernels"] == 12  # attention and the cache's update, of each layer
        recorded = next(entry for entry in RECORDED if entry.layers is None)
        counts = {kind: moved["count"] for kind, moved in compiled["programs"][1]["collectives"].items() if moved["count"]}
        blocks = {kind: 10 * count + (kind == "all-reduce") for kind, count in counts.items()}  # and the embedding's
        assert blocks == {kind: moved["count"] for kind, moved in recorded.collectives.items()}
        monkeypatch.setattr(results, "ensure_environment", lambda _: pytest.fail("it was compiled already"))
        assert self.run(cache, monkeypatch, capsys, *options) == compiled

    def test_the_whole_model_takes_the_memory_that_is_recorded(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        compiled, recorded = self.run(cache, monkeypatch, capsys, "--programs=structured_decode"), RECORDED[0]
        assert compiled["versions"] == recorded.versions
        assert compiled["weights_bytes_per_chip"] == recorded.weight_bytes
        assert compiled["kv_bytes_per_token_per_chip"] == recorded.kv_bytes_per_token
        assert compiled["kv_tokens"] == recorded.kv_tokens
        assert compiled["programs_of_a_start"] > 100

    def test_the_keys_of_the_cache_are_the_same_in_every_process_and_others_elsewhere(self, tmp_path: Path) -> None:
        python = ensure_environment(print)

        def check(*arguments: str) -> "subprocess.CompletedProcess[str]":
            command = [str(python), "-m", "benchmarks.compile.cache_check", *arguments]
            return subprocess.run(
                command, cwd=ROOT, env={**os.environ, **VARIABLES}, capture_output=True, text=True, timeout=300
            )

        for name in ("first", "second"):
            assert check("make", str(tmp_path / name)).returncode == 0
        assert (tmp_path / "first" / "parts.json").read_text() == (tmp_path / "second" / "parts.json").read_text()
        done = check("try", str(tmp_path / "first"))  # on this machine's CPU
        assert done.returncode == 1
        assert "accelerator_config: differs" in done.stdout
        assert "jax_lib version: equal" in done.stdout
        assert "found in the cache: no" in done.stdout

"""The comparison with a bare server: its arithmetic, and that both servers get the same engine arguments and load."""

import pytest

from apps.checks.serve_rules import check_serve_config
from benchmarks.serving.tokenizer import tokenizer_for
from tests.benchmarks.known import Timing, running
from tests.perf.bare import Server, bare_command
from tests.perf.overhead import measure as main
from tests.perf.overhead.rounds import SIMULATED_TOKENIZER, LoadFigures, Plan, Rounds, compare
from tests.perf.overhead.servers import model_of, serve_config_for


def figures(clients: int, ttft: float, rate: float) -> LoadFigures:
    return LoadFigures(clients, 1, 0, ttft, ttft, 1, rate)


def test_comparison_takes_medians_of_rounds() -> None:
    bare = [figures(1, t, 1) for t in (50, 60, 500)] + [figures(8, 1, r) for r in (100, 110, 90)]
    ours = [figures(1, t, 1) for t in (65, 66, 64)] + [figures(8, 1, r) for r in (95, 94, 10)]
    assert compare(bare, ours) == {"ttft_added_ms": 5, "throughput_ratio": 0.94}


def test_as_many_streams_as_are_measured_are_let_in_and_the_guard_is_on() -> None:
    config = serve_config_for("sim", 1024)
    assert model_of(config)["engine_kwargs"]["max_num_seqs"] == 1024
    findings = check_serve_config(config, direct_streaming=True)
    assert not [finding for finding in findings if finding.severity == "error" or "max_ongoing" in finding.where]
    assert config["applications"][0]["args"]["guard"] == {"open": True}


def test_tokens_are_counted_without_a_server_as_one_is_always_paused() -> None:
    tokenizer = main.tokenizer_of("sim", {})
    assert tokenizer is SIMULATED_TOKENIZER
    assert tokenizer.count("water stone") == 2


def test_bare_server_gets_the_same_engine_arguments(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = tmp_path_factory.mktemp("model")
    (model / "config.json").write_text("{}")
    (model / "m.safetensors").write_bytes(b"")
    llm_config = {
        "model_loading_config": {"model_id": "m", "model_source": str(model)},
        "engine_kwargs": {"max_model_len": 64, "enforce_eager": True, "dtype": "float32"},
    }
    command = bare_command(llm_config, 1234)
    assert command[command.index("--max-model-len") + 1] == "64"
    assert "--enforce-eager" in command
    assert command[command.index("--model") + 1] == str(model)


def test_a_round_sends_each_load_of_the_plan_and_raises_on_wrong_counts() -> None:
    plan = Plan(1, {1: 3, 8: 16}, prompt_tokens=48, output_tokens=10)
    with running(Timing(ttft=0.01, tpot=0.002)) as server:
        loads = Rounds("known", plan, tokenizer_for(server.url, "known", {}, None)).run(Server("bare", server.url))
    assert [(load.clients, load.requests, load.errors) for load in loads] == [(1, 3, 0), (8, 16, 0)]
    with running(Timing(ttft=0.01, tpot=0.002, miscount_every=2)) as server:
        rounds = Rounds("known", plan, tokenizer_for(server.url, "known", {}, None))
        with pytest.raises(ValueError, match="usage reports 9 output tokens, 10 were requested"):
            rounds.run(Server("bare", server.url))

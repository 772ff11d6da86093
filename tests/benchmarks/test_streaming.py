"""The load recovers the timing of a server whose timing is set."""

import asyncio

import pytest

from benchmarks import bare, overhead
from benchmarks.streaming import LoadFigures, percentile, prompts, run_load
from tests.fake_openai import FakeServer, running


@pytest.mark.parametrize("clients", [1, 8])
def test_known_latencies_are_recovered(clients: int) -> None:
    with running(FakeServer(tokens=10, ttft_s=0.1, itl_s=0.03)) as fake:
        figures = asyncio.run(run_load(fake.url, "fake", prompts(2 * clients, 8, 1), clients, 10))
    assert figures.requests == 2 * clients
    assert figures.ttft_p50_ms == pytest.approx(100, abs=25)
    assert figures.itl_p50_ms == pytest.approx(30, abs=6)
    assert figures.output_tok_per_s == pytest.approx(clients * 10 / (0.1 + 9 * 0.03), rel=0.25)


def test_a_wrong_token_count_is_an_error() -> None:
    with running(FakeServer(tokens=9)) as fake, pytest.raises(ValueError, match="9 tokens came, 10 were asked for"):
        asyncio.run(run_load(fake.url, "fake", prompts(1, 8, 1), 1, 10))


def test_prompts_are_seeded_and_never_repeat() -> None:
    assert prompts(50, 8, 1) == prompts(50, 8, 1)
    assert len(set(prompts(50, 8, 1) + prompts(50, 8, 2))) == 100


def test_percentile_is_nearest_rank() -> None:
    assert percentile([4, 1, 3, 2], 50) == 2
    assert percentile(list(range(1, 101)), 99) == 99


def test_comparison_takes_medians_of_rounds() -> None:
    def figures(clients: int, ttft: float, rate: float) -> LoadFigures:
        return LoadFigures(clients, 1, ttft, ttft, 1, rate)

    bare = [figures(1, t, 1) for t in (50, 60, 500)] + [figures(8, 1, r) for r in (100, 110, 90)]
    ours = [figures(1, t, 1) for t in (65, 66, 64)] + [figures(8, 1, r) for r in (95, 94, 10)]
    assert overhead.compare(bare, ours) == {"ttft_added_ms": 5, "throughput_ratio": 0.94}


def test_bare_server_gets_the_same_engine_arguments(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = tmp_path_factory.mktemp("model")
    (model / "config.json").write_text("{}")
    (model / "m.safetensors").write_bytes(b"")
    llm_config = {
        "model_loading_config": {"model_id": "m", "model_source": str(model)},
        "engine_kwargs": {"max_model_len": 64, "enforce_eager": True, "dtype": "float32"},
    }
    command = bare.bare_command(llm_config, 1234)
    assert command[command.index("--max-model-len") + 1] == "64"
    assert "--enforce-eager" in command
    assert command[command.index("--model") + 1] == str(model)

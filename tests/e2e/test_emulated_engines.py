"""The other ways to serve on an emulated slice: real tokens from the small Gemma, and Ray's default ingress."""

from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.e2e.drills import under_load
from tests.e2e.emulated import MODEL, EmulatedSlice
from tests.e2e.load import ERROR, RETRY, Load, play

SMALL = "gemma-3-270m"


@pytest.fixture(scope="module", params=["--engine=cpu", "--classic"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, EmulatedSlice]]:
    stack = EmulatedSlice.on_free_ports(tmp_path_factory.mktemp("state"))
    try:
        stack.run("--detach", request.param)
        yield request.param, stack
    finally:
        stack.stop()


@pytest.mark.full
def test_the_same_placement_and_the_same_api(served: tuple[str, EmulatedSlice]) -> None:
    option, stack = served
    model = SMALL if option == "--engine=cpu" else MODEL

    (group,) = stack.placement_groups()
    assert [bundle["unit_resources"]["TPU"] for bundle in group["bundles"]] == [4.0] * 4
    (replica,) = stack.deployment()["replicas"]
    if option == "--engine=cpu":
        assert stack.nodes()[replica["node_id"]]["ray.io/tpu-worker-id"] == "0"

    client = openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", timeout=60)
    assert [listed.id for listed in client.models.list()] == [model]
    completion = client.completions.create(model=model, prompt="Water boils at", max_tokens=8, temperature=0)
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 8
    if option == "--engine=cpu":
        assert "100" in completion.choices[0].text
    messages: list[openai.types.chat.ChatCompletionUserMessageParam] = [{"role": "user", "content": "Water boils at"}]
    chunks = list(
        client.chat.completions.create(
            model=model, messages=messages, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-1].usage is not None
    assert 0 < chunks[-1].usage.completion_tokens <= 8


@pytest.mark.full
def test_an_unknown_model_is_refused_in_openai_form(served: tuple[str, EmulatedSlice]) -> None:
    _, stack = served
    answer = httpx.post(f"{stack.url}/v1/completions", json={"model": "nonsense", "prompt": "hello"}, timeout=30)
    assert answer.status_code == 404
    assert "nonsense" in answer.json()["error"]["message"]


@pytest.mark.full
def test_an_engine_killed_in_mid_stream_ends_every_answer_with_an_error(served: tuple[str, EmulatedSlice]) -> None:
    option, stack = served
    if option == "--classic":
        pytest.skip("the simulated engine has no process of its own")
    replica = stack.replica()
    story = play(
        Load(stack.url, model=SMALL, max_tokens=48),
        lambda: stack.engine_core().kill(),
        lambda: not replica.is_running() and stack.running() and stack.answers(SMALL),
        seconds=240,
    )
    under_load("vLLM's engine core killed in mid-stream", story)
    assert {request.in_words for request in story.load.lost} <= {ERROR, RETRY}, story.load.lost

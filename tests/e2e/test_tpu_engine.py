"""The slice's own engine, vLLM TPU, on an emulated slice: four hosts with four CPU devices each, and a small Gemma 4."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from emulation.hosts.tpu_engine import MODEL
from tests.e2e.drills import under_load
from tests.e2e.emulated import EmulatedSlice
from tests.e2e.load import ERROR, RETRY, Load, play
from tests.emulation.tpu import PROMPTS, TOKENS
from tests.emulation.tpu.one_process import engine_tokens

START_S = 900
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        not os.environ.get("REQUIRE_TPU_ENGINE"), reason="takes a quarter of an hour: REQUIRE_TPU_ENGINE=1 runs it"
    ),
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedSlice]:
    started = EmulatedSlice.on_free_ports(tmp_path_factory.mktemp("state"))
    try:
        started.run("--detach", "--engine=tpu", seconds=START_S)
        yield started
    finally:
        started.stop()


def tokens(stack: EmulatedSlice, prompt: str) -> list[int]:
    body = {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    answer = httpx.post(f"{stack.url}/v1/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["choices"][0]["token_ids"])


def test_four_hosts_are_reserved_and_make_the_tokens_of_one(stack: EmulatedSlice) -> None:
    (group,) = stack.placement_groups()
    assert [bundle["unit_resources"]["TPU"] for bundle in group["bundles"]] == [4.0] * 4
    asked = [tokens(stack, prompt) for prompt in PROMPTS]
    assert asked == engine_tokens(Path(stack.record().temp_dir))


def test_chat_streams_through_haproxy_and_guard(stack: EmulatedSlice) -> None:
    client = openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", timeout=120)
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Water boils at"}],
            max_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].usage is not None
    assert 0 < chunks[-1].usage.completion_tokens <= 8
    body = {"model": MODEL, "prompt": "hello", "max_tokens": 1, "prompt_logprobs": 1}
    refused = httpx.post(f"{stack.url}/v1/completions", json=body, timeout=30)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt_logprobs")  # it would end the engine


def test_a_lost_host_ends_the_answers_and_its_return_mends_the_slice(stack: EmulatedSlice) -> None:
    replica = stack.replica()
    story = play(
        Load(stack.url, clients=2, model=MODEL, max_tokens=64),
        lambda: stack.kill("slice-a/2"),
        lambda: not replica.is_running() and stack.running() and stack.answers(MODEL),
        mend=lambda: stack.run("--start-host=slice-a/2"),
        seconds=START_S,
    )
    under_load("a host lost under the TPU engine", story)
    assert not story.hangs
    assert {request.in_words for request in story.load.lost} <= {ERROR, RETRY}, story.load.lost

"""The simulated engine over its own HTTP API: OpenAI's forms, the slice's time, the cache's bookkeeping."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from apps.slice.efficiency import WHOLE_STEP
from apps.slice.memory import Layout
from apps.slice.models import GEMMA_4_31B
from apps.slice.roofline import Chunk, step_seconds
from apps.slice.topology import GENERATIONS
from emulation.sim.cache import BLOCK, KvCache
from emulation.sim.engine import Simulation
from emulation.sim.protocol import CompletionRequest
from emulation.sim.server import build_server

MODEL = "google/gemma-4-31B-it"
CONFIG: dict[str, Any] = {
    "model_loading_config": {"model_id": MODEL},
    "accelerator_type": "TPU-V6E",
    "accelerator_config": {"kind": "tpu", "topology": "4x4"},
    "engine_kwargs": {"tensor_parallel_size": 16, "max_model_len": 8192},
}


@asynccontextmanager
async def client(**engine: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Simulation]]:
    simulation = Simulation({**CONFIG, "engine_kwargs": CONFIG["engine_kwargs"] | engine})
    transport = httpx.ASGITransport(build_server(simulation))
    async with httpx.AsyncClient(transport=transport, base_url="http://sim", timeout=60) as http:
        yield http, simulation
    simulation.scheduler.stop()


def completion(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": "The quick brown fox", "max_tokens": 8, "ignore_eos": True} | more


async def post(body: dict[str, Any], path: str = "/v1/completions", **engine: Any) -> httpx.Response:
    async with client(**engine) as (http, _):
        return await http.post(path, json=body)


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_chat_answers_and_says_that_it_is_simulated() -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12}
    answer = asyncio.run(post(body, "/v1/chat/completions")).json()
    assert answer["choices"][0]["message"]["content"]
    assert answer["system_fingerprint"] == "simulated"
    assert answer["usage"]["completion_tokens"] == 12
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_stream_joins_to_the_whole_answer_and_ends_with_usage() -> None:
    whole = asyncio.run(post(completion())).json()["choices"][0]["text"]
    streamed = events(asyncio.run(post(completion(stream=True, stream_options={"include_usage": True}))).text)
    assert "".join(e["choices"][0]["text"] for e in streamed[:-1]) == whole
    assert streamed[-2]["choices"][0]["finish_reason"] == "length"
    assert streamed[-1]["usage"]["completion_tokens"] == 8


def test_a_stop_string_is_left_out_even_across_tokens() -> None:
    text = asyncio.run(post(completion(max_tokens=20))).json()["choices"][0]["text"]
    stop = text[10:14]
    streamed = events(asyncio.run(post(completion(max_tokens=20, stop=stop, stream=True))).text)
    assert "".join(e["choices"][0]["text"] for e in streamed) == text[: text.index(stop)]
    assert streamed[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "status", "fragment"),
    [
        (completion(model="other"), 404, "does not exist"),
        (completion(max_tokens=9000), 400, "maximum context length is 8192"),
        (completion(max_tokens=0), 400, "max_tokens"),
        (completion(n=2), 400, "n: "),
        ({"model": MODEL}, 400, "prompt"),
    ],
)
def test_refusals_have_openais_form(body: dict[str, Any], status: int, fragment: str) -> None:
    refused = asyncio.run(post(body))
    assert refused.status_code == status
    assert fragment in refused.json()["error"]["message"]


def test_time_is_that_of_the_slice() -> None:
    step_s = step_seconds(Layout(GEMMA_4_31B, 16), GENERATIONS["v6e"], [Chunk(1, 100)]) / WHOLE_STEP
    start = time.monotonic()
    asyncio.run(post(completion(max_tokens=200)))
    assert time.monotonic() - start == pytest.approx(200 * step_s, rel=0.25)


def test_a_second_prompt_reuses_the_first_ones_blocks() -> None:
    prompt = "word " * (3 * BLOCK)

    async def twice() -> list[int]:
        async with client() as (http, _):
            bodies = [(await http.post("/v1/completions", json=completion(prompt=prompt))).json() for _ in range(2)]
        return [body["usage"]["prompt_tokens_details"]["cached_tokens"] for body in bodies]

    cold, warm = asyncio.run(twice())
    assert cold == 0
    assert warm >= 2 * BLOCK
    assert warm % BLOCK in (0, BLOCK - 1)


def test_many_requests_share_the_cache_and_leave_it_empty() -> None:
    async def crowd() -> tuple[list[int], int]:
        async with client(max_num_seqs=8) as (http, simulation):
            simulation.scheduler.cache.capacity = 300  # a few requests' worth: others wait, or start again
            answers = await asyncio.gather(
                *(http.post("/v1/completions", json=completion(prompt=f"{n} " * 20, max_tokens=60)) for n in range(20))
            )
            return [a.json()["usage"]["completion_tokens"] for a in answers], simulation.scheduler.cache.held

    produced, held = asyncio.run(crowd())
    assert produced == [60] * 20
    assert held == 0


def test_a_client_that_leaves_gives_its_space_back() -> None:
    async def leave() -> tuple[int, int]:
        async with client() as (_, simulation):
            request = simulation.admit(CompletionRequest(**completion(prompt="hello " * 50)))
            stream = simulation.scheduler.tokens(request)
            await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]
            await asyncio.sleep(0.05)
            return simulation.scheduler.cache.held, len(simulation.scheduler.running)

    assert asyncio.run(leave()) == (0, 0)


def test_the_cache_evicts_the_least_recently_used() -> None:
    cache = KvCache(4 * BLOCK, prefix_caching=True)
    first, second = [f"a{n}" for n in range(2 * BLOCK)], [f"b{n}" for n in range(2 * BLOCK)]
    for prompt in (first, second):
        assert cache.take(len(prompt))
        cache.release(len(prompt), prompt)
    assert cache.cached_prefix(first) == 2 * BLOCK - 1
    assert cache.take(2 * BLOCK)
    assert cache.cached_prefix(second) == 0
    assert not cache.take(3 * BLOCK)


def test_metrics_have_vllms_names() -> None:
    async def scrape() -> str:
        async with client() as (http, _):
            await http.post("/v1/completions", json=completion())
            return (await http.get("/metrics")).text

    text = asyncio.run(scrape())
    assert f'vllm:generation_tokens_total{{model_name="{MODEL}"}} 8' in text
    assert "vllm:kv_cache_usage_perc" in text

"""The OpenAI API of the real stack, on both HTTP paths: real Gemma weights, real vLLM, Ray Serve."""

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from apps.guard import answers
from tests.e2e.conftest import Stack

MODEL = "gemma-3-270m"
JSON = {"content-type": "application/json"}
EXPORT_S = 12  # Ray exports every 10
QUESTION: Any = [{"role": "user", "content": "Water boils at"}]


@pytest.fixture
def client(stack: Stack) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0, timeout=120)


def post(stack: Stack, route: str, body: Any) -> httpx.Response:
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    return httpx.post(f"{stack.url}{route}", content=content, headers=JSON, timeout=120)


def test_models(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list().data] == [MODEL]
    card = client.models.retrieve(MODEL)
    assert (card.model_extra or {})["metadata"]["input_modality"] == "text"


def test_curl_of_the_tutorial(stack: Stack) -> None:
    body = json.dumps({"model": MODEL, "messages": QUESTION, "max_tokens": 16})
    command = [
        "curl",
        "-sS",
        "-X",
        "POST",
        f"{stack.url}/v1/chat/completions",
        "-H",
        "Content-Type: application/json",
        "-d",
        body,
    ]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] <= 16


def test_completion_is_the_models_own(client: openai.OpenAI) -> None:
    done = client.completions.create(model=MODEL, prompt="Water boils at", max_tokens=8, temperature=0)
    assert "100 degrees" in done.choices[0].text


def test_streaming_chat_with_usage_in_the_last_chunk(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=QUESTION, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
    )
    assert sum(bool(c.choices and c.choices[0].delta.content) for c in chunks) >= 2
    usage = chunks[-1].usage
    assert usage
    assert 1 <= usage.completion_tokens <= 8
    assert all(c.usage is None for c in chunks[:-1])


def test_stop_strings(client: openai.OpenAI) -> None:
    done = client.completions.create(model=MODEL, prompt="Water boils at", max_tokens=16, temperature=0, stop=["degrees"])
    assert done.choices[0].text == " 100 "
    assert done.choices[0].finish_reason == "stop"


def test_seed(client: openai.OpenAI) -> None:
    def sample(seed: int) -> str:
        return client.completions.create(model=MODEL, prompt="Once", max_tokens=12, temperature=1, seed=seed).choices[0].text

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(1, 4)}) > 1


def test_logprobs(client: openai.OpenAI) -> None:
    done = client.completions.create(model=MODEL, prompt="Water boils at", max_tokens=3, temperature=0, logprobs=2)
    logprobs = done.choices[0].logprobs
    assert logprobs
    assert logprobs.token_logprobs
    assert all(value is not None and value <= 0 for value in logprobs.token_logprobs)
    chat = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=2, logprobs=True, top_logprobs=2)
    assert chat.choices[0].logprobs
    assert len(chat.choices[0].logprobs.content or []) == chat.usage.completion_tokens  # type: ignore[union-attr]


def test_json_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"degrees": {"type": "integer", "minimum": 0, "maximum": 999}},
        "required": ["degrees"],
        "additionalProperties": False,
    }
    done = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        max_tokens=48,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "boiling", "schema": schema}},
    )
    assert 0 <= json.loads(done.choices[0].message.content or "")["degrees"] <= 999


def test_tokenize_and_back(stack: Stack) -> None:
    tokens = post(stack, "/tokenize", {"model": MODEL, "prompt": "Water boils"}).json()["tokens"]
    assert tokens[0] == 2
    assert post(stack, "/detokenize", {"model": MODEL, "tokens": tokens}).json()["prompt"] == "<bos>Water boils"


def engine_metric(stack: Stack, name: str) -> float:
    """A vLLM metric as Ray exports it for Prometheus (refreshed every few seconds)."""
    records = list((Path(stack.environment["XDG_STATE_HOME"]) / "ray-tpu-serve" / "local").glob("*.json"))
    temp_dir = Path(json.loads(records[0].read_text())["temp_dir"])
    targets = json.loads((temp_dir / "ray" / "prom_metrics_service_discovery.json").read_text())
    total = 0.0
    for target in {t for group in targets for t in group["targets"]}:
        lines = httpx.get(f"http://{target}/metrics", timeout=30).text.splitlines()
        total += sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"ray_vllm_{name}{{"))
    return total


def wait_for(condition: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.5)


def is_idle(stack: Stack) -> bool:
    """No token between two exports."""
    first = engine_metric(stack, "generation_tokens_total")
    time.sleep(EXPORT_S)
    return engine_metric(stack, "generation_tokens_total") == first


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_leaves_stops_the_engine(stack: Stack, client: openai.OpenAI, stream: bool) -> None:
    before = engine_metric(stack, "generation_tokens_total")
    question: dict[str, Any] = {
        "model": MODEL,
        "prompt": "Once upon a time",
        "max_tokens": 1900,
        "extra_body": {"ignore_eos": True},
    }
    if stream:
        with client.completions.create(**question, stream=True) as events:
            for _ in zip(range(3), events, strict=False):
                pass
            wait_for(lambda: engine_metric(stack, "num_requests_running") == 1, 40, "the request shows in the metrics")
        wait_for(lambda: engine_metric(stack, "num_requests_running") == 0, 40, "the metrics show none")
    else:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=5, max_retries=0).completions.create(**question)
    wait_for(lambda: is_idle(stack), 60, "the engine has nothing to do")
    generated = engine_metric(stack, "generation_tokens_total") - before
    print(f"\n{stack.path}: {generated:.0f} of 1900 tokens were generated for a client that left")
    assert generated < 1000


BAD = {
    "unknown model": ("/v1/chat/completions", {"model": "nope", "messages": QUESTION}, 404, "nope"),
    "unknown model, completions": ("/v1/completions", {"model": "nope", "prompt": "hi"}, 404, "nope"),
    "prompt too long": ("/v1/completions", {"model": MODEL, "prompt": "water " * 3000}, 400, "2048"),
    "malformed JSON": ("/v1/chat/completions", "{bad", 400, "JSON"),
    "wrong type": ("/v1/chat/completions", {"model": MODEL, "messages": 5}, 400, "must be a list"),
    "wrong type of a number": ("/v1/completions", {"model": MODEL, "prompt": "hi", "max_tokens": "x"}, 400, "integer"),
    "negative max_tokens": ("/v1/completions", {"model": MODEL, "prompt": "hi", "max_tokens": -3}, 400, "-3"),
    "no messages": ("/v1/chat/completions", {"model": MODEL}, 400, "messages"),
    "50 MB body": ("/v1/completions", {"model": MODEL, "prompt": "hi", "junk": "x" * 50_000_000}, 413, "larger"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_openai_form(stack: Stack, case: str) -> None:
    route, body, status, word = BAD[case]
    answer = post(stack, route, body)
    assert answer.status_code == status, answer.text[:500]
    error = answer.json()["error"]
    assert word in error["message"]
    assert error["code"]
    assert "Traceback" not in answer.text


def test_prompt_too_long_gives_both_numbers(stack: Stack) -> None:
    message = post(stack, "/v1/completions", {"model": MODEL, "prompt": "water " * 3000}).json()["error"]["message"]
    assert "2048" in message
    assert "2049" in message  # vLLM counts up to one more than fit


INSIDE = {
    "half a character": ("POST", "/v1/chat/completions", {}, b'{"messages":[{"role":"user","content":"\\ud83d"}]}'),
    "a token that is none": ("POST", "/detokenize", {}, b'{"tokens":[1099511627776]}'),
    "no body": ("POST", "/v1/completions", {}, b""),
    "a route that is none": ("GET", "/v1/nothing", {}, b""),
    "the documentation": ("GET", "/docs", {}, b""),
    "another method": ("DELETE", "/v1/models", {}, b""),
    "a header that is not in ASCII": ("GET", "/v1/models", {b"x-odd": b"\xff\xfe"}, b""),
    "large headers": ("GET", "/v1/models", {b"x-large": b"x" * 40_000}, b""),
    "an adapter that is none": (
        "POST",
        "/v1/completions",
        {b"serve_multiplexed_model_id": b"x"},
        b'{"prompt":"x","max_tokens":1}',
    ),
    "another host": ("GET", "/v1/models", {b"host": b"rebound.example"}, b""),
}


@pytest.mark.parametrize("case", INSIDE)
def test_no_answer_shows_the_inside(stack: Stack, case: str) -> None:
    method, path, headers, body = INSIDE[case]
    sent = {b"content-type": b"application/json", **headers}
    answer = httpx.request(method, stack.url + path, headers=sent, content=body, timeout=60)
    assert not answers.leaks_internals(answer.content), answer.text
    assert answer.status_code < 500 or "request id" in answer.text, answer.text
    if answer.status_code >= 400:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_no_web_page_of_elsewhere_is_answered(stack: Stack) -> None:
    page = {"origin": "https://evil.example"}
    for method in ("GET", "POST", "OPTIONS"):
        answer = httpx.request(method, f"{stack.url}/v1/completions", headers={**page, "access-control-request-method": "POST"})
        assert answer.status_code in (403, 405)
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.full
def test_large_bodies_of_many_clients_are_read_whole(stack: Stack) -> None:
    """Parts that the web server takes while the app reads others must neither be lost nor keep it waiting until it is a 408."""
    parts = [b"{", *[b" " * 65536] * 320, b"}"]

    def send(_: int) -> tuple[int, str]:
        answer = httpx.post(f"{stack.url}/v1/models", content=iter(parts), headers=JSON, timeout=120)
        return answer.status_code, answer.headers["content-type"]

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(send, range(24))) == {(413, "application/json")}


def test_healthy_after_all_that(stack: Stack, client: openai.OpenAI) -> None:
    assert httpx.get(f"{stack.url}/-/healthz").status_code == 200
    assert client.completions.create(model=MODEL, prompt="Water boils at", max_tokens=1).choices

"""What a key may have: requests, tokens and streams, and that a stream stays what it is without the guard."""

import asyncio
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.guard.served import HELLO, MODEL, Keys, ask, events, post, served, wait_for


def test_requests_per_minute(keys: Keys, tmp_path: Path) -> None:
    with served(keys, tmp_path, limits={"requests_per_minute": 3}) as server:
        client = server.client(keys.texts["alice"])
        left = [int(client.models.with_raw_response.list().headers["x-ratelimit-remaining-requests"]) for _ in range(3)]
        assert left == [2, 1, 0]
        with pytest.raises(openai.RateLimitError) as caught:
            ask(client)
        headers = caught.value.response.headers
        assert 1 <= int(headers["retry-after"]) <= 20
        assert headers["x-ratelimit-limit-requests"] == "3"
        assert headers["x-ratelimit-reset-requests"].endswith("s")
        assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")
        assert ask(server.client(keys.texts["root"]))  # another key has its own


def test_tokens_per_minute_are_those_that_the_server_counted(keys: Keys, tmp_path: Path) -> None:
    with served(keys, tmp_path, limits={"tokens_per_minute": 1000}) as server:
        client, start = server.client(keys.texts["alice"]), time.monotonic()
        used = ask(client, max_tokens=100).usage.total_tokens
        used += list(ask(client, stream=True, max_tokens=100, stream_options={"include_usage": True}))[-1].usage.total_tokens
        list(ask(client, stream=True, max_tokens=100))
        used = round(used * 1.5)  # the third stream is as long as the second
        left = int(client.models.with_raw_response.list().headers["x-ratelimit-remaining-tokens"])
        assert 1000 - used <= left <= 1001 - used + (time.monotonic() - start) * 1000 / 60  # some come back each second
        ask(client, max_tokens=800)
        with pytest.raises(openai.RateLimitError) as caught:
            ask(client)
        assert caught.value.type == "tokens"


def test_a_division_by_replicas(keys: Keys, tmp_path: Path) -> None:
    with served(keys, tmp_path, replicas=4, limits={"requests_per_minute": 100}) as server:
        answer = server.client(keys.texts["alice"]).models.with_raw_response.list()
        assert answer.headers["x-ratelimit-limit-requests"] == "25"


def test_concurrent_requests(keys: Keys, tmp_path: Path) -> None:
    with served(keys, tmp_path, limits={"concurrent_requests": 2}) as server:
        client = server.client(keys.texts["alice"])
        streams = [ask(client, stream=True, max_tokens=4000) for _ in range(2)]
        with pytest.raises(openai.RateLimitError):
            ask(client)
        streams[0].close()
        wait_for(lambda: server.guard.housekeeping and len(server.guard.housekeeping.live) == 1, 5, "the first to end")
        assert ask(client)
        streams[1].close()


@pytest.mark.parametrize("body", [{"max_tokens": 11}, {"max_completion_tokens": 11}])
def test_more_tokens_than_a_key_may_ask_for(keys: Keys, tmp_path: Path, body: dict[str, int]) -> None:
    with served(keys, tmp_path, limits={"max_tokens": 10}) as server, pytest.raises(openai.BadRequestError, match="at most 10"):
        server.client(keys.texts["alice"]).chat.completions.create(model=MODEL, messages=HELLO, **body)  # type: ignore[call-overload]


def test_who_does_not_say_how_many_tokens_gets_no_more_than_the_key_may(keys: Keys, tmp_path: Path) -> None:
    with served(keys, tmp_path, limits={"max_tokens": 10}) as server:
        client = server.client(keys.texts["alice"])
        done = client.chat.completions.create(model=MODEL, messages=HELLO, extra_body={"ignore_eos": True})
        assert done.usage
        assert done.usage.completion_tokens == 10
        assert done.choices[0].finish_reason == "length"
        longest = "word " * 8178  # with 10 more tokens it would not fit the model, with 4 more it does
        done = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": longest}], extra_body={"ignore_eos": True}
        )
        assert done.usage
        assert done.usage.total_tokens == 8192


def test_a_context_limit_goes_by_the_servers_own_count(keys: Keys, tmp_path: Path) -> None:
    with served(keys, tmp_path, limits={"context_tokens": 200}) as server:
        client = server.client(keys.texts["alice"])
        fits = client.completions.create(model=MODEL, prompt="word " * 190, max_tokens=9)
        assert fits.usage
        assert fits.usage.prompt_tokens <= 191
        with pytest.raises(
            openai.BadRequestError, match=r"maximum context length is 200 tokens. The prompt has 19\d and 20 more"
        ):
            client.completions.create(model=MODEL, prompt="word " * 190, max_tokens=20)
        with pytest.raises(openai.BadRequestError, match="maximum context length is 200"):
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 300}])
        chat = client.chat.completions.create(model=MODEL, messages=HELLO, extra_body={"ignore_eos": True})
        assert chat.usage
        assert chat.usage.total_tokens == 200


def test_a_stream_has_the_same_bytes_as_without_the_guard(keys: Keys, tmp_path: Path) -> None:
    body = {"model": MODEL, "prompt": "Once upon", "max_tokens": 20, "ignore_eos": True, "stream": True}
    texts = []
    for section in ({"args": keys}, {"args": None}):
        with served(section["args"], tmp_path) as server:
            texts.append(post(server, keys.texts["alice"], body).text)

    def plain(text: str) -> list[dict[str, Any]]:
        return [{**event, "id": "", "created": 0} for event in events(text)]

    assert plain(texts[0]) == plain(texts[1])
    assert all("usage" not in event for event in plain(texts[0]))


async def _count_as_vllm_does(request: Request) -> Response:
    """Beside its work it looks whether the client has left (`listen_for_disconnect` of its `api_utils.py`)."""

    async def listen() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    await request.body()
    listening = asyncio.create_task(listen())
    await asyncio.sleep(0.05)
    listening.cancel()
    return JSONResponse({"count": 99})


def test_a_prompt_that_has_to_be_counted_holds_nobody_up(keys: Keys, tmp_path: Path) -> None:
    app = Starlette(routes=[Route("/tokenize", _count_as_vllm_does, methods=["POST"])])
    with served(keys, tmp_path, app=app, limits={"context_tokens": 100}) as server:
        answer = post(server, keys.texts["alice"], {"model": MODEL, "prompt": "x" * 200, "max_tokens": 2})
        assert answer.json()["error"]["code"] == "context_length_exceeded"

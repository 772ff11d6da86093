"""The chat's client against a server that keeps what it was asked: settings arrive, timing is right, failures are short."""

import asyncio
import time

import pytest

from apps.chat.api import Answer, ChatApi, ModelInfo, Sampling
from apps.common.errors import OperationError
from tests.fake_openai import FakeServer, running


async def ask(url: str, sampling: Sampling, timeout_s: float = 5, came: list[float] | None = None) -> list[Answer]:
    """Each state of the answer; `came` gets the time of each."""
    answers = []
    async for answer in ChatApi(url, timeout_s).answer(None, "fake", [{"role": "user", "content": "hi"}], sampling, Answer()):
        answers.append(Answer(**vars(answer)))
        if came is not None:
            came.append(time.perf_counter())
    return answers


def test_settings_reach_the_server() -> None:
    with running(FakeServer()) as fake:
        asyncio.run(ask(fake.url, Sampling(temperature=0.3, top_p=0.8, max_tokens=17, thinking=True)))
    request = fake.requests[0]
    assert {k: request[k] for k in ("temperature", "top_p", "max_tokens", "stream")} == {
        "temperature": 0.3,
        "top_p": 0.8,
        "max_tokens": 17,
        "stream": True,
    }
    assert request["chat_template_kwargs"] == {"enable_thinking": True}
    assert request["messages"] == [{"role": "user", "content": "hi"}]


def test_thinking_is_not_sent_to_a_model_that_does_not_think() -> None:
    with running(FakeServer()) as fake:
        asyncio.run(ask(fake.url, Sampling(0, 1, 5)))
    assert "chat_template_kwargs" not in fake.requests[0]


def test_answer_grows_and_its_timing_is_measured() -> None:
    came: list[float] = []
    with running(FakeServer(tokens=5, ttft_s=0.2, itl_s=0.1)) as fake:
        asked = time.perf_counter()
        answers = asyncio.run(ask(fake.url, Sampling(0, 1, 5), came=came))
    assert [a.text for a in answers[:3]] == ["w0 ", "w0 w1 ", "w0 w1 w2 "]
    last = answers[-1]
    assert last.completion_tokens == 5
    assert last.ttft_s is not None
    assert 0.19 < last.ttft_s < came[0] - asked  # a busy machine takes longer
    assert last.tok_per_s == pytest.approx(4 / (came[4] - came[0]), rel=0.1)
    assert last.summary().startswith(f"TTFT {1000 * last.ttft_s:.0f} ms")
    assert "5 tokens" in last.summary()


def test_what_was_not_measured_is_not_shown() -> None:
    assert Answer().summary() == ""
    assert Answer(ttft_s=0.065, completion_tokens=1, elapsed_s=0.065).summary() == "TTFT 65 ms · 1 token"


def test_closing_the_answer_stops_the_server() -> None:
    async def stop_early(url: str) -> None:
        stream = ChatApi(url, 5).answer(None, "fake", [{"role": "user", "content": "hi"}], Sampling(0, 1, 5), Answer())
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]

    with running(FakeServer(tokens=200, itl_s=0.02)) as fake:
        asyncio.run(stop_early(fake.url))
        assert fake.disconnected.wait(10)


@pytest.mark.parametrize(
    ("status", "message", "shown"),
    [
        (400, "This model's maximum context length is 2048 tokens", "maximum context length is 2048"),
        (429, "slow down", "busy"),
        (503, "x", "busy"),
        (500, "Traceback: secret /path/of/server", "failed"),
    ],
)
def test_refusals_are_short_and_keep_internals_in(status: int, message: str, shown: str) -> None:
    with running(FakeServer(refusal=(status, message))) as fake, pytest.raises(OperationError) as caught:
        asyncio.run(ask(fake.url, Sampling(0, 1, 5)))
    assert shown in str(caught.value)
    assert "secret" not in str(caught.value)


def test_no_server_and_slow_server_are_told_apart() -> None:
    with pytest.raises(OperationError, match="cannot be reached"):
        asyncio.run(ask("http://127.0.0.1:9/v1", Sampling(0, 1, 5)))
    with running(FakeServer(ttft_s=3)) as fake, pytest.raises(OperationError, match="did not answer in time"):
        asyncio.run(ask(fake.url, Sampling(0, 1, 5), timeout_s=0.3))


@pytest.mark.parametrize(
    ("ending", "shown"),
    [("cut", "connection to the model server broke"), ("error", "failed while"), ("silent", "broke the answer off")],
)
def test_an_answer_that_breaks_off_is_no_whole_one(ending: str, shown: str) -> None:
    answer = Answer()

    async def ask_into(url: str) -> None:
        async for _ in ChatApi(url, 5).answer(None, "fake", [{"role": "user", "content": "hi"}], Sampling(0, 1, 5), answer):
            pass

    with running(FakeServer(ending=ending)) as fake, pytest.raises(OperationError, match=shown) as caught:
        asyncio.run(ask_into(fake.url))
    assert "EngineCore" not in str(caught.value)
    assert answer.text == "w0 w1 w2 w3 "
    assert not answer.ended


@pytest.mark.parametrize(("images", "thinks"), [(False, False), (True, False), (False, True)])
def test_abilities_come_from_the_server(images: bool, thinks: bool) -> None:
    with running(FakeServer(takes_images=images, thinks=thinks)) as fake:
        assert asyncio.run(ChatApi(fake.url, 5).models(None)) == [ModelInfo("fake", images, thinks)]

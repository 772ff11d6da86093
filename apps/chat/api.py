"""Talk to an OpenAI-compatible server: which models it has, what they can do, and one streamed answer with its timing.

Knows nothing of Gradio or Ray. Prompts and answers are never logged.
"""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import openai

from apps.common.errors import OperationError

_ENDINGS = {"length": "cut at max_tokens", "abort": "stopped"}
_NO_KEY = "none"  # what the openai package sends where there is none: it cannot send nothing


class KeyRefusedError(OperationError):
    """The server does not accept the key: unknown, expired or revoked."""


@dataclass(frozen=True)
class ModelInfo:
    """A served model: takes_images and thinks say which controls the page shows."""

    id: str
    takes_images: bool = False
    thinks: bool = False


@dataclass(frozen=True)
class Sampling:
    """What the visitor set. `thinking` is None for a model that does not think."""

    temperature: float
    top_p: float
    max_tokens: int
    thinking: bool | None = None


@dataclass
class Answer:
    """The answer so far. Times in seconds from the request; None means not measured (yet).

    `ended`: nothing will be added. `problem`: why it is not whole, in words for the page.
    """

    text: str = ""
    reasoning: str = ""
    ttft_s: float | None = None
    elapsed_s: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    problem: str = ""
    ended: bool = False

    def stop(self) -> None:
        """Leave it as it is, because the visitor wants no more of it."""
        self.finish_reason, self.ended = "abort", True

    @property
    def tok_per_s(self) -> float | None:
        """Decode rate: tokens after the first, over the time after the first."""
        if not self.completion_tokens or self.completion_tokens < 2 or self.ttft_s is None or self.elapsed_s is None:
            return None
        decode_s = self.elapsed_s - self.ttft_s
        return (self.completion_tokens - 1) / decode_s if decode_s > 0 else None

    def summary(self) -> str:
        """The line under an answer, e.g. `TTFT 65 ms · 120 tokens · 19.4 tok/s`; leaves out what was not measured."""
        parts = []
        if self.ttft_s is not None:
            parts.append(f"TTFT {self.ttft_s * 1000:.0f} ms")
        if self.completion_tokens is not None:
            parts.append(f"{self.completion_tokens} token{'' if self.completion_tokens == 1 else 's'}")
        if self.tok_per_s is not None:
            parts.append(f"{self.tok_per_s:.1f} tok/s")
        if ending := _ENDINGS.get(self.finish_reason or ""):
            parts.append(ending)
        return " · ".join(parts)


class ChatApi:
    """One server, asked with a visitor's key. `first_token_timeout_s` bounds each wait for the next bytes."""

    def __init__(self, api_url: str, first_token_timeout_s: float) -> None:
        self._api_url = api_url
        timeout = openai.Timeout(first_token_timeout_s, connect=5)
        self._client = openai.AsyncOpenAI(base_url=api_url, api_key=_NO_KEY, timeout=timeout, max_retries=0)

    async def accepts(self, key: str | None) -> bool:
        """Whether the server answers to this key, or without one.

        Raises:
            OperationError: the server cannot be reached, or fails; the message is fit for the page.
        """
        try:
            await self._as(key).models.list(timeout=10)
        except (openai.AuthenticationError, openai.PermissionDeniedError):
            return False
        except openai.OpenAIError as error:
            raise _for_the_page(error) from error
        return True

    async def models(self, key: str | None) -> list[ModelInfo]:
        """The models that the key may ask, with what they can do.

        Raises:
            OperationError: the server cannot be reached or refuses; the message is fit for the page.
        """
        client = self._as(key)
        try:
            listed = await client.models.list(timeout=10)
            return [await self._describe(client, model.id) for model in listed.data]
        except openai.OpenAIError as error:
            raise _for_the_page(error) from error

    async def answer(
        self, key: str | None, model: str, messages: list[dict[str, Any]], sampling: Sampling, answer: Answer
    ) -> AsyncIterator[Answer]:
        """Stream into an answer, given after each chunk, until it has ended. Closing the iterator stops the server's work.

        Raises:
            OperationError: the server refused, failed, or broke off; the message is fit for the page.
        """
        start = time.perf_counter()
        try:
            stream = await self._as(key).chat.completions.create(**_request(model, messages, sampling))
            async with stream:
                async for chunk in stream:
                    _absorb(answer, chunk, time.perf_counter() - start)
                    yield answer
        except (openai.OpenAIError, ValueError) as error:  # the last for a chunk that is no JSON
            raise _for_the_page(error, begun=answer.ttft_s is not None) from error
        if answer.finish_reason is None:
            raise OperationError("The model server broke the answer off. Retry asks again.")
        answer.ended = True

    def _as(self, key: str | None) -> openai.AsyncOpenAI:
        return self._client.with_options(api_key=key or _NO_KEY)  # on the same connections

    async def _describe(self, client: openai.AsyncOpenAI, model_id: str) -> ModelInfo:
        card = await client.models.retrieve(model_id, timeout=10)
        metadata = (card.model_extra or {}).get("metadata") or {}
        return ModelInfo(model_id, metadata.get("input_modality") == "image", await self._thinks(client, model_id))

    async def _thinks(self, client: openai.AsyncOpenAI, model_id: str) -> bool:
        """True when the chat template reacts to `enable_thinking`: then the prompt's tokens differ."""
        asked = {"model": model_id, "messages": [{"role": "user", "content": "hi"}]}
        tokens = []
        for thinking in (True, False):
            body = {**asked, "chat_template_kwargs": {"enable_thinking": thinking}}
            try:
                response = await client.post(urljoin(self._api_url, "/tokenize"), body=body, cast_to=object)
            except openai.OpenAIError:
                return False  # the route is closed
            tokens.append(response.get("tokens") if isinstance(response, dict) else None)
        return tokens[0] != tokens[1]


def _for_the_page(error: Exception, *, begun: bool = False) -> OperationError:
    if isinstance(error, openai.AuthenticationError):
        return KeyRefusedError("Your key is no longer valid, so you are logged out. Reload the page to log in again.")
    return OperationError(_break(error) if begun else _refusal(error))


def _break(error: Exception) -> str:
    """Why an answer that had begun is not whole."""
    if isinstance(error, openai.APITimeoutError):
        return "The model server stopped writing. Retry asks again."
    if isinstance(error, openai.APIConnectionError | ValueError):
        return "The connection to the model server broke. Retry asks again."
    return "The model server failed while it answered. Retry asks again; the log of the llm app has the reason."


def _refusal(error: Exception) -> str:
    """A short sentence for the visitor, without the server's internals."""
    if isinstance(error, openai.APITimeoutError):
        return "The model server did not answer in time. Try again in a moment."
    if isinstance(error, openai.APIConnectionError):
        return "The model server cannot be reached. It may still be starting."
    if isinstance(error, openai.APIStatusError):
        if error.status_code in (429, 503):
            return "The model server is busy. Try again in a moment."
        if error.status_code < 500:
            message = error.body.get("message") if isinstance(error.body, dict) else None
            return f"The model server refused the request: {str(message or f'HTTP {error.status_code}')[:300]}"
    return "The model server failed. The log of the llm app has the reason."


def _request(model: str, messages: list[dict[str, Any]], sampling: Sampling) -> dict[str, Any]:
    request: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if sampling.thinking is not None:
        request["extra_body"] = {"chat_template_kwargs": {"enable_thinking": sampling.thinking}}
    return request


def _absorb(answer: Answer, chunk: Any, now_s: float) -> None:
    if chunk.usage is not None:
        answer.prompt_tokens = chunk.usage.prompt_tokens
        answer.completion_tokens = chunk.usage.completion_tokens
    for choice in chunk.choices:
        extra = choice.delta.model_extra or {}
        reasoning = extra.get("reasoning_content") or extra.get("reasoning") or ""
        text = choice.delta.content or ""
        if text or reasoning:
            answer.ttft_s = now_s if answer.ttft_s is None else answer.ttft_s
            answer.elapsed_s = now_s  # the usage chunk at the end does not count
        answer.text += text
        answer.reasoning += reasoning
        answer.finish_reason = choice.finish_reason or answer.finish_reason

"""Requests of the OpenAI API as the simulated engine takes them, and its response bodies.

Fields that the TPU engine ignores are ignored here too: penalties, min_p, logit_bias, bad_words, min_tokens. `faults` has the
fields that fail.
"""

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, Field

from emulation.sim import FINGERPRINT


class StreamOptions(BaseModel):
    """Options of a stream: what it carries beside the text."""

    include_usage: bool = False


class _Generation(BaseModel):
    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    stop: str | list[str] | None = None
    seed: int | None = None
    ignore_eos: bool = False
    cache_salt: str | None = None
    priority: int = 0
    n: Literal[1] = 1
    temperature: float | None = None
    echo: bool = False
    prompt_logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    allowed_token_ids: list[int] | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class Message(BaseModel):
    """One turn of a chat."""

    role: str
    content: str | list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return " ".join(str(part.get("text", "[image]")) for part in self.content)
        return self.content or ""


class ChatRequest(_Generation):
    """Body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = False
    top_logprobs: int | None = 0

    @property
    def wants_logprobs(self) -> bool:
        return bool(self.logprobs)

    @property
    def logprobs_count(self) -> int | None:
        """Log probabilities per token, as the engine sees it; vLLM's server leaves the number out for tokens that are named."""
        return None if self.logprob_token_ids else self.top_logprobs

    @property
    def text(self) -> str:
        return _turns(self.messages)


class CompletionRequest(_Generation):
    """Body of /v1/completions."""

    prompt: str | list[int]
    logprobs: int | None = None

    @property
    def wants_logprobs(self) -> bool:
        return self.logprobs is not None

    @property
    def logprobs_count(self) -> int | None:
        return None if self.logprob_token_ids else self.logprobs

    @property
    def text(self) -> str:
        return self.prompt if isinstance(self.prompt, str) else " ".join(map(str, self.prompt))


class TokenizeRequest(BaseModel):
    """Body of /tokenize."""

    prompt: str = ""
    messages: list[Message] = []

    @property
    def text(self) -> str:
        return self.prompt + _turns(self.messages)


def _turns(messages: list[Message]) -> str:
    return "".join(f"<|turn>{message.role}\n{message.text}<turn|>\n" for message in messages)


@dataclass
class Usage:
    """Tokens of one request."""

    prompt: int
    cached: int = 0
    completion: int = 0

    def body(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


@dataclass(frozen=True)
class Shape:
    """Bodies of one response, of a chat or a completion, with one id throughout."""

    model: str
    chat: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, finish_reason: str, usage: Usage) -> dict[str, Any]:
        content = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        return self._body(content, finish_reason, streamed=False) | {"usage": usage.body()}

    def first(self) -> Iterator[dict[str, Any]]:
        """First chunk of a chat's stream: the role."""
        if self.chat:
            yield self._body({"delta": {"role": "assistant", "content": ""}}, None, streamed=True)

    def piece(self, text: str) -> dict[str, Any]:
        return self._body({"delta": {"content": text}} if self.chat else {"text": text}, None, streamed=True)

    def last(self, finish_reason: str) -> dict[str, Any]:
        return self._body({"delta": {}} if self.chat else {"text": ""}, finish_reason, streamed=True)

    def usage(self, usage: Usage) -> dict[str, Any]:
        return self._body({}, None, streamed=True) | {"choices": [], "usage": usage.body()}

    def _body(self, choice: dict[str, Any], finish_reason: str | None, *, streamed: bool) -> dict[str, Any]:
        kind = "chat.completion" if self.chat else "text_completion"
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}",
            "object": f"{kind}.chunk" if streamed and self.chat else kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": [{"index": 0, "finish_reason": finish_reason, "logprobs": None} | choice],
        }


def failure(error: Exception) -> dict[str, Any]:
    """Body of an error that is the server's own fault."""
    return error_body(str(error), 500, "InternalServerError")


def error_body(message: str, code: int, kind: str = "invalid_request_error") -> dict[str, Any]:
    """Body of an error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}

"""The conversation of one page, as it is shown and as the model is asked; the server keeps it, so no client can forge it."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from apps.common.errors import OperationError

_MAX_MESSAGES, _MAX_CHARACTERS = 400, 512 * 1024


@dataclass(frozen=True)
class Image:
    """`kind` is the second half of its media type."""

    kind: str
    content: bytes = field(repr=False)

    @property
    def media_type(self) -> str:
        return f"image/{self.kind}"


@dataclass(frozen=True)
class ChatMessage:
    """One message of the page. `sent` is what the model gets of it: nothing of thoughts and of errors."""

    role: str
    shown: str
    sent: str | Image | None = None
    title: str | None = None

    def as_message(self) -> dict[str, Any]:
        """The message in the form that Gradio shows."""
        metadata = {"metadata": {"title": self.title}} if self.title else {}
        return {"role": self.role, "content": self.shown, **metadata}


@dataclass
class Conversation:
    """The messages of one page, oldest first."""

    messages: list[ChatMessage] = field(default_factory=list)

    def as_messages(self) -> list[dict[str, Any]]:
        return [message.as_message() for message in self.messages]

    def add(self, messages: Sequence[ChatMessage]) -> None:
        """Add a question. Raises `OperationError` where the conversation has become too long to be kept."""
        grown = [*self.messages, *messages]
        if (
            len(grown) > _MAX_MESSAGES
            or sum(len(message.sent) for message in grown if isinstance(message.sent, str)) > _MAX_CHARACTERS
        ):
            raise OperationError("This conversation has reached the chat's limit. Reload the page to start a new one.")
        self.messages = grown


def to_messages(system: str, conversation: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """The conversation as OpenAI messages: without thoughts and errors; images as data URLs; same roles merged."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system.strip() else []
    for shown in conversation:
        if shown.sent is None:
            continue
        if messages and messages[-1]["role"] == shown.role:
            messages[-1]["content"].append(_part(shown.sent))
        else:
            messages.append({"role": shown.role, "content": [_part(shown.sent)]})
    return [{**message, "content": _simplify(message["content"])} for message in messages]


def _part(sent: str | Image) -> dict[str, Any]:
    if isinstance(sent, str):
        return {"type": "text", "text": sent}
    url = f"data:{sent.media_type};base64,{base64.b64encode(sent.content).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _simplify(content: Any) -> Any:
    """Plain text where there is nothing but text: every server takes that."""
    if isinstance(content, str) or any(part["type"] != "text" for part in content):
        return content
    return "\n".join(part["text"] for part in content)

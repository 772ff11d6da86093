"""What was said on one page, as it is shown and as the model is asked; the server keeps it, so no client can make it up."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from apps.common.errors import OperationError

_MAX_TURNS, _MAX_CHARACTERS = 400, 512 * 1024


@dataclass(frozen=True)
class Image:
    """`kind` is the second half of its media type."""

    kind: str
    content: bytes = field(repr=False)

    @property
    def media_type(self) -> str:
        return f"image/{self.kind}"


@dataclass(frozen=True)
class Turn:
    """One message of the page. `said` is what the model gets of it: nothing of thoughts and of errors."""

    role: str
    shown: str
    said: str | Image | None = None
    title: str | None = None

    def as_message(self) -> dict[str, Any]:
        """The message in the form that Gradio shows."""
        metadata = {"metadata": {"title": self.title}} if self.title else {}
        return {"role": self.role, "content": self.shown, **metadata}


@dataclass
class Conversation:
    """The turns of one page, oldest first."""

    turns: list[Turn] = field(default_factory=list)

    def as_messages(self) -> list[dict[str, Any]]:
        return [turn.as_message() for turn in self.turns]

    def add(self, turns: Sequence[Turn]) -> None:
        """Add a question. Raises `OperationError` where the conversation has become too long to be kept."""
        grown = [*self.turns, *turns]
        if len(grown) > _MAX_TURNS or sum(len(turn.said) for turn in grown if isinstance(turn.said, str)) > _MAX_CHARACTERS:
            raise OperationError("This conversation is as long as the chat keeps one. Reload the page to start anew.")
        self.turns = grown


def to_messages(system: str, turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The conversation as OpenAI messages: without thoughts and errors; images as data URLs; same roles merged."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system.strip() else []
    for turn in turns:
        if turn.said is None:
            continue
        if messages and messages[-1]["role"] == turn.role:
            messages[-1]["content"].append(_part(turn.said))
        else:
            messages.append({"role": turn.role, "content": [_part(turn.said)]})
    return [{**message, "content": _simplify(message["content"])} for message in messages]


def _part(said: str | Image) -> dict[str, Any]:
    if isinstance(said, str):
        return {"type": "text", "text": said}
    url = f"data:{said.media_type};base64,{base64.b64encode(said.content).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _simplify(content: Any) -> Any:
    """Plain text where there is nothing but text: every server takes that."""
    if isinstance(content, str) or any(part["type"] != "text" for part in content):
        return content
    return "\n".join(part["text"] for part in content)

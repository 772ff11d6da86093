"""The conversation of one browser tab, as shown and as the model is asked; the server keeps it, so no client can forge it."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from apps.chat.api import Answer
from apps.chat.markup import as_shown, as_written
from apps.common.errors import OperationError

_MAX_ROUNDS, _MAX_CHARACTERS = 200, 512 * 1024


@dataclass(frozen=True)
class Image:
    """`kind` is the second half of its media type."""

    kind: str
    content: bytes = field(repr=False)

    @property
    def media_type(self) -> str:
        return f"image/{self.kind}"


@dataclass
class Round:
    """A question, with its images by where the browser finds them, and its answer."""

    text: str
    images: Mapping[str, Image] = field(default_factory=dict)
    answer: Answer = field(default_factory=Answer)

    _whole: list[dict[str, Any]] | None = field(default=None, init=False, repr=False, compare=False)
    """What is shown of a round whose answer has ended: the page shows all rounds again with each token of the next one."""

    def shown(self) -> list[dict[str, Any]]:
        """Its messages in the form that Gradio shows."""
        messages = self._whole or [{"role": "user", "content": self._question_shown}, *self._answer_shown()]
        if self.answer.ended:
            self._whole = messages
        return [dict(message) for message in messages]

    @cached_property
    def _question_shown(self) -> str:
        return _images_shown(self) + as_shown(self.text)

    def _answer_shown(self) -> list[dict[str, Any]]:
        answer = self.answer
        shown: list[dict[str, Any]] = []
        if answer.reasoning:
            shown.append({"content": as_shown(answer.reasoning), "metadata": {"title": "Thinking"}})
        timing = answer.summary() if answer.ended else ""
        text = "\n\n".join(
            part for part in (as_shown(answer.text), _span("timing", timing), _span("problem", self._problem())) if part
        )
        shown += [{"content": text}] if text else []
        return [{"role": "assistant", **message} for message in shown]

    def _problem(self) -> str:
        what = "The answer is not whole" if self.answer.text else "No answer"
        return f"⚠ {what}: {as_shown(' '.join(self.answer.problem.split()))}" if self.answer.problem else ""

    def sent(self) -> list[dict[str, Any]]:
        """Its messages as the model gets them: without thoughts and problems, images as data URLs."""
        parts = [*map(_image_part, self.images.values()), *([{"type": "text", "text": self.text}] if self.text else [])]
        asked = {"role": "user", "content": parts if self.images else self.text}  # every server takes plain text
        return [asked, *([{"role": "assistant", "content": self.answer.text}] if self.answer.text else [])]


@dataclass
class Conversation:
    """The rounds of one tab, oldest first."""

    rounds: list[Round] = field(default_factory=list)

    def shown(self) -> list[dict[str, Any]]:
        return [message for pair in self.rounds for message in pair.shown()]

    def messages(self, system: str) -> list[dict[str, Any]]:
        """What the model is asked. A question that got no answer is left out: what the server refused once, it would again."""
        *earlier, last = self.rounds
        kept = [message for pair in earlier if pair.answer.text for message in pair.sent()]
        return [*([{"role": "system", "content": system}] if system.strip() else []), *kept, *last.sent()]

    def ask(self, text: str, images: Mapping[str, Image]) -> None:
        """Add a question.

        Raises:
            OperationError: an answer is being written, or the conversation has become too long to be kept.
        """
        self._check_idle()
        length = sum(len(pair.text) + len(pair.answer.text) for pair in self.rounds) + len(text)
        if len(self.rounds) >= _MAX_ROUNDS or length > _MAX_CHARACTERS:
            raise OperationError("This conversation has reached the chat's limit. Clear it to start a new one.")
        self.rounds.append(Round(text, images))

    def ask_again(self, message: int, text: str | None = None) -> None:
        """Go back to the question that is shown as that message, to have it answered anew, as it was or with another text.

        Raises:
            OperationError: an answer is being written, or no question is shown there.
        """
        self._check_idle()
        first = 0
        for index, pair in enumerate(self.rounds):
            if first == message:
                again = pair.text if text is None else as_written(text.removeprefix(_images_shown(pair))).strip()
                self.rounds[index:] = [Round(again, pair.images)]
                return
            first += len(pair.shown())
        raise OperationError("This question is gone. Reload the page to see what is left.")

    def clear(self) -> None:
        """Forget all; an answer that is being written ends."""
        self.leave()
        self.rounds.clear()

    def leave(self) -> None:
        """End an answer that is being written: nobody reads it any more."""
        if self.rounds and not self.rounds[-1].answer.ended:
            self.rounds[-1].answer.stop()

    def _check_idle(self) -> None:
        if self.rounds and not self.rounds[-1].answer.ended:
            raise OperationError("An answer is being written. Stop it first, or wait until it is done.")


def _span(kind: str, text: str) -> str:
    """A note of the page's own, which its script takes out again where an answer is copied."""
    return f'<span class="{kind}">{text}</span>' if text else ""


def _images_shown(pair: Round) -> str:
    """Images as text: what Gradio shows as a file has a button that sends it to a foreign site."""
    return "".join(f"![image]({path})\n\n" for path in pair.images)


def _image_part(image: Image) -> dict[str, Any]:
    url = f"data:{image.media_type};base64,{base64.b64encode(image.content).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}

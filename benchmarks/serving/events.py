"""Server-sent events of OpenAI's streams, parsed as they come in. The hot path of the client: no copies, no callbacks.

A token is in an event whose choice has text, reasoning or a tool call; the role that opens a chat, an empty text, the finish
reason and the usage have none. An event can hold several tokens, and the first ones blanks or reasoning: all of it is recorded.
"""

from typing import Any

import msgspec

from benchmarks.serving.request import Response, Usage


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Any = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode


class EventReader:
    """Feeds pieces of a body into a response, wherever they were cut."""

    __slots__ = ("_keep_text", "_response", "_rest", "_texts")

    def __init__(self, response: Response, *, keep_text: bool) -> None:
        self._response, self._keep_text = response, keep_text
        self._rest = b""
        self._texts: list[str] = []

    def feed(self, body: bytes, now: float) -> None:
        """Read a piece that came at `now`. Raises `msgspec.DecodeError` if an event is no JSON of the API's form."""
        if self._rest:
            body = self._rest + body
        if b"\r" in body:
            body = body.replace(b"\r\n", b"\n")
        if body.find(b"\n\n") == len(body) - 2 and body.startswith(b"data: "):  # one whole event, as nearly always
            self._rest = b""
            self._add(body[6:-2], now)
            return
        *events, self._rest = body.split(b"\n\n")
        for event in events:
            if event.startswith(b"data: "):
                self._add(event[6:], now)
            else:
                self._add_unusual(event, now)

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def _add_unusual(self, event: bytes, now: float) -> None:
        """Comments, named events, and no blank after the colon: allowed by the standard, and rare."""
        for line in event.split(b"\n"):
            if line.startswith(b"data:"):
                self._add(line[5:].strip(), now)

    def _add(self, data: bytes, now: float) -> None:
        response = self._response
        if data == b"[DONE]":
            response.complete = True
            return
        chunk = _decode(data)
        if chunk.choices:
            choice = chunk.choices[0]
            delta = choice.delta
            content = choice.text if delta is None else delta.content
            text = content if content or delta is None else delta.reasoning_content or delta.reasoning
            if text or (delta is not None and delta.tool_calls):
                if response.content_at is None:
                    self._mark_beginning(text, content)
                response.times.append(now)
                response.sizes.append(len(text) if text else len(data))
                if chunk.usage:
                    response.counted.append(chunk.usage.completion_tokens)
                if self._keep_text and text:
                    self._texts.append(text)
            if choice.finish_reason:
                response.finish_reason = choice.finish_reason
        if chunk.usage:
            response.usage = chunk.usage
        if chunk.error is not None:
            response.error = "error in the stream"

    def _mark_beginning(self, text: str | None, content: str | None) -> None:
        """Note what of text and content begins with the event that is about to be added; tool calls are both."""
        response, here = self._response, len(self._response.times)
        if response.text_at is None and (not text or not text.isspace()):
            response.text_at = here
        if not text or (content and not content.isspace()):
            response.content_at = here

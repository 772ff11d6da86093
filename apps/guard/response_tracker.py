"""The answer to one request on its way to the client: counted as it passes, never held back; errors are inspected first.

The path of a stream's chunk is as short as can be: at hundreds of streams it runs tens of thousands of times a second.
"""

import random
import re
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field

from starlette.types import Message, Scope, Send

from apps.guard import answers
from apps.guard.access import Access
from apps.guard.answers import Headers, Refusal
from apps.guard.fair import Ticket
from apps.guard.key_usage import Bucket, KeyUsage

_MAX_ERROR_BYTES = 64 * 1024
CLIENT_LEFT = 499  # nginx's word for it, and Serve's
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_FINISHED = re.compile(rb'"finish_reason": ?"(\w+)"')
_NO_CHOICES = re.compile(rb'"choices": ?\[\]')
_TOKEN_BEGINS, _TOKEN_ENDS, _END = b'data: {"id":', (b"]}\n\n", b"l}\n\n"), b'"finish_reason":"'
"""Marks of an event with neither counts nor an error: counts end in `}}`, and vLLM writes `"usage":null` where it has none."""


@dataclass(slots=True, eq=False)
class ResponseTracker:
    """One request's answer. Times are those of `time.monotonic`; counts are None where they were not measured."""

    _send: Send
    headers: dict[bytes, bytes]
    """The request's headers."""
    id: str
    _id_given: bool
    """Serve tells the client the id that was given."""
    began: float = field(default_factory=time.monotonic)
    access: Access | None = None
    route: str | None = None
    model: str | None = None
    usage: KeyUsage | None = None
    reads_body: bool = False
    body_read: bool = False
    aborted: Refusal | None = None
    """Why the guard itself ends it, if it does."""
    hides_usage: bool = False
    """The guard asked for the token counts, the client did not: it does not see them."""
    charged_prompt: int = 0
    """Taken from the key's tokens on entry."""
    ticket: Ticket | None = None
    max_output: float | None = None
    """Tokens that the engine may have computed of an answer that nobody waited for; None before it took the request."""
    unfinished: int | None = None
    """Choices of vLLM's stream without a finish_reason so far: it ends with none and [DONE]. None for any other answer."""
    warning: str | None = None
    """What of the request was left out, for the client."""
    streamed: int = 0
    """Tokens of a stream so far: one for each event, until the server's own count comes."""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    first_at: float | None = None
    """When a stream's first chunk came."""
    status: int | None = None
    ended: bool = False
    stuck: bool = False
    """When the housekeeping polled, the same part was being sent as the time before: the client does not take it."""
    _sending: Awaitable[None] | None = None
    _sending_before: Awaitable[None] | None = None
    _stuck_s: float = 0.0
    _is_stream: bool = False
    _tokens: Bucket | None = None  # the key's, if they are limited
    _held: Message | None = None  # the start of what is no stream: until an error's body is known, or that it was not aborted
    _error: bytes = b""
    _done: bool = False
    """The stream has ended, by [DONE] or since the engine gave it up: what still comes of it is not passed on."""

    @classmethod
    def of(cls, scope: Scope, send: Send) -> "ResponseTracker":
        """A tracker for a request, under its own id if it has a sane one."""
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")  # the client's own, or Serve's where it gave none
        is_sane = _SANE_ID.fullmatch(given) is not None
        return cls(send, headers, given.decode() if is_sane else f"{random.getrandbits(128):032x}", is_sane)

    @property
    def final_status(self) -> int:
        """The status that the client got; 499 if it left before the end."""
        return self.status if self.status is not None and self.ended else CLIENT_LEFT

    def stalled(self, poll_s: float) -> float:
        """Seconds that one part has been on its way; asked every `poll_s` seconds."""
        sending = self._sending if getattr(self._sending, "cr_frame", None) else None  # an ended coroutine has none
        self.stuck = sending is not None and sending is self._sending_before
        self._sending_before = sending
        self._stuck_s = self._stuck_s + poll_s if self.stuck else 0.0
        return self._stuck_s

    def settle(self) -> float:
        """The request has ended: correct what its key was charged, and return how many tokens it did cost."""
        prompt = output = 0
        if self.max_output is not None and (self.status is None or self.status < 400):
            prompt = self.charged_prompt if self.prompt_tokens is None else self.prompt_tokens
            sent = self.streamed if self._is_stream else round(self.max_output)  # of what nobody waited for
            output = sent if self.output_tokens is None else self.output_tokens
        if self.usage:
            self.usage.reconcile(self.charged_prompt + self.streamed, prompt + output)
        return prompt + output

    def send(self, message: Message) -> Awaitable[None]:
        """What the app calls to answer. No coroutine of its own: a token is counted, and the server's `send` does the rest."""
        if not self._is_stream:
            return self._send_whole(message)
        body = message.get("body", b"")
        if (
            self.first_at
            and body[-4:] in _TOKEN_ENDS
            and body[:12] == _TOKEN_BEGINS
            and body.find(b"\n") == len(body) - 2
            and body.find(_END) < 0
            and message.get("more_body")
        ):
            self.streamed += 1
            if self._tokens:
                self._tokens.level -= 1
            self._sending = self._send(message)
            return self._sending
        return self._send_inspected(message, body)

    async def _send_inspected(self, message: Message, body: bytes) -> None:
        """A part of a stream that is not just one more token: the first, counts, an error, several events, the end."""
        seen, tokens = self._inspect(body) if body and not self._done else (b"", 0)
        if self.unfinished is not None and not (self._done or message.get("more_body")):
            seen += answers.aborted_event(self.id)
        if tokens and self.first_at is None:
            self.first_at = time.monotonic()
        self.streamed += tokens
        if self._tokens:
            self._tokens.level -= tokens
        if seen or not body or not message.get("more_body"):  # else it was the usage that the client did not ask for
            await self._pass_on({**message, "body": seen})

    async def _pass_on(self, message: Message) -> None:
        self._sending = self._send(message)
        await self._sending
        self.ended = not message.get("more_body", False)

    async def refuse(self, refusal: Refusal) -> None:
        """The guard's own answer, in place of the app's."""
        self.status = refusal.status
        more = [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
        await self._send_json(refusal.status, refusal.body(), more)

    async def break_off(self, refusal: Refusal) -> None:
        """End what cannot go on: with an error where none of it was sent, with an error event in a stream."""
        if self._held is not None or self.status is None:
            await self.refuse(refusal)
        elif not self.ended:
            event = b"data: " + refusal.body() + b"\n\n" if self._is_stream else b""
            await self._send({"type": "http.response.body", "body": event})
            self.ended = True

    async def _send_whole(self, message: Message) -> None:
        """The beginning of any answer, or a part of one that is no stream."""
        body, held = message.get("body", b""), self._held
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif held is not None and held["status"] >= 400:
            self._error = (self._error + body)[:_MAX_ERROR_BYTES]
            if not message.get("more_body", False):
                await self._send_error(held, self._error)
        elif held is not None and b"abort" in _FINISHED.findall(body):
            await self.refuse(Refusal(500, answers.failed(self.id), "aborted", kind="server_error"))
        elif not self.ended:
            if held is not None:
                self._held = None
                await self._send(held)
            self._count_usage(body)
            await self._pass_on(message)

    async def _begin(self, message: Message) -> None:
        self.status = message["status"]
        if message["status"] >= 400:
            self._held = message
            return
        headers = [(name, value) for name, value in message.get("headers", []) if not name.startswith(b"access-control-")]
        self._is_stream = any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)
        self._tokens = self.usage.tokens if self.usage else None
        start = {**message, "headers": headers + self._own_headers()}
        if self._is_stream:
            await self._send(start)
        else:
            self._held = start

    def _own_headers(self) -> Headers:
        headers = self.usage.headers() if self.usage else []
        if self.warning:
            headers.append((b"warning", self.warning.encode()))
        if not self._id_given:
            headers.append((b"x-request-id", self.id.encode()))
        return headers

    async def _send_error(self, start: Message, body: bytes) -> None:
        """The app's refusal as it is if it only speaks of the request, without the server's inside else."""
        kept = [(n, v) for n, v in start.get("headers", []) if n in (b"retry-after", b"allow", b"www-authenticate")]
        await self._send_json(start["status"], answers.public_error(body, start["status"], self.id), kept)

    async def _send_json(self, status: int, body: bytes, more: Headers) -> None:
        self._held = None
        json_headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        headers = json_headers + more + self._own_headers()
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
        self.ended = True

    def _inspect(self, body: bytes) -> tuple[bytes, int]:
        """(what the client may see, estimated tokens)."""
        seen, tokens = [], 0
        for event in body.split(b"\n\n"):
            ends, is_last = _FINISHED.findall(event), event.startswith(b"data: [DONE]")
            self.unfinished = self.unfinished and max(0, self.unfinished - len(ends))
            if b"abort" in ends or (is_last and self.unfinished):
                self._done = True
                seen.append(answers.aborted_event(self.id))
                break
            self._done = self._done or is_last
            if event.find(b'"error":') >= 0:
                self.unfinished = self.unfinished and 0  # it does not look finished
                event = answers.public_event(event, self.id)
            elif event.find(b'_tokens":') >= 0 and self._count_usage(event) and self.hides_usage and _NO_CHOICES.search(event):
                continue
            seen.append(event)
            tokens += event.find(b"data: {") >= 0
        return b"\n\n".join(seen), tokens

    def _count_usage(self, body: bytes) -> bool:
        """Note the last token counts in a body, if it has any."""
        prompt, output = answers.token_counts(body)
        self.prompt_tokens = self.prompt_tokens if prompt is None else prompt
        self.output_tokens = self.output_tokens if output is None else output
        return prompt is not None

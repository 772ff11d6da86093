"""The answer to one request on its way to the client: counted as it passes, never held back; errors are looked at first.

The path of a stream's chunk is as short as can be: at hundreds of streams it runs tens of thousands of times a second.
"""

import json
import logging
import random
import re
import time

from starlette.types import Message, Send

from apps.guard import answers
from apps.guard.account import Account
from apps.guard.answers import Headers, Refusal
from apps.guard.routes import Access

logger = logging.getLogger("ray.serve")
_MOST_ERROR_BYTES = 64 * 1024
CLIENT_LEFT = 499  # nginx's word for it, and Serve's
_NO_CHOICES = re.compile(rb'"choices": ?\[\]')
_COUNTS = b'_tokens":'  # not `"usage"`: vLLM writes `"usage": null` into every chunk
_PROMPT = re.compile(rb'"(?:prompt|input)_tokens": ?(\d+)')
_OUTPUT = re.compile(rb'"(?:completion|output)_tokens": ?(\d+)')


class Exchange:
    """One request's answer. Times are those of `time.monotonic`; counts are None where they were not measured."""

    def __init__(self, send: Send, given_id: str | None, began: float) -> None:
        self._send = send
        self.id, self.began = given_id or f"{random.getrandbits(128):032x}", began
        self._id_header = {} if given_id else {"x-request-id": self.id}  # Serve tells the client the id that was given
        self.access: Access | None = None
        self.route: str | None = None
        self.model: str | None = None
        self.account: Account | None = None
        self.body_read = False
        self.aborted: str | None = None
        """Why the guard itself ends it, if it does."""
        self.hides_usage = False
        """The guard asked for the token counts, the client did not: it does not see them."""
        self.charged_prompt = 0
        """Taken from the key's tokens on entry."""
        self.expected_output = 0.0
        """Tokens of its answers, guessed when the engine took it; 0 before."""
        self.streamed = 0
        """Tokens of a stream so far: one for each event, until the server's own count comes."""
        self.prompt_tokens: int | None = None
        self.output_tokens: int | None = None
        self.first_at: float | None = None
        """When a stream's first chunk came."""
        self.status: int | None = None
        self.ended = False
        self.sending = False
        """A chunk is being sent: if that stays, the client does not take it."""
        self.chunks = 0
        self._chunks_before, self._stalled_s = 0, 0.0
        self._is_stream = False
        self._start: Message | None = None
        self._error = b""

    @property
    def final_status(self) -> int:
        """What the client was told; 499 if it left before the end."""
        return self.status if self.status is not None and self.ended else CLIENT_LEFT

    def stalled(self, look_s: float) -> float:
        """Seconds that one chunk has been on its way; asked every `look_s` seconds."""
        stuck = self.sending and self.chunks == self._chunks_before
        self._chunks_before = self.chunks
        self._stalled_s = self._stalled_s + look_s if stuck else 0.0
        return self._stalled_s

    def settle(self) -> float:
        """The request has ended: correct what its key was charged, and say how many tokens it did cost."""
        prompt = output = 0
        if self.expected_output and (self.status is None or self.status < 400):
            prompt = self.charged_prompt if self.prompt_tokens is None else self.prompt_tokens
            guess = self.streamed if self._is_stream else round(self.expected_output)  # of an answer that nobody waited for
            output = guess if self.output_tokens is None else self.output_tokens
        if self.account:
            self.account.correct(self.charged_prompt + self.streamed, prompt + output)
        return prompt + output

    async def send(self, message: Message) -> None:
        """What the app calls to answer."""
        if self._is_stream:
            body = message.get("body", b"")
            if body:
                if _COUNTS in body or body.startswith(b'data: {"error"'):
                    body = self._look_at(body)
                    message = {**message, "body": body}
                events = body.count(b"data: ")
                if events:
                    if self.first_at is None:
                        self.first_at = time.monotonic()
                    self.streamed += events
                    if self.account and self.account.tokens:
                        self.account.tokens.level -= events
                elif not body and message.get("more_body"):
                    return  # all of it was the usage that the client did not ask for
            self.sending = True
            self.chunks += 1
            await self._send(message)
            self.sending = False
            self.ended = not message.get("more_body", False)
        elif message["type"] == "http.response.start":
            await self._begin(message)
        else:
            await self._pass_on(message)

    async def refuse(self, refusal: Refusal) -> None:
        """The guard's own answer, in place of the app's."""
        self.status = refusal.status
        body = refusal.body()
        more = {**(self.account.headers() if self.account else {}), **refusal.headers, **self._id_header}
        await self._send({"type": "http.response.start", "status": refusal.status, "headers": answers.json_headers(body, more)})
        await self._send({"type": "http.response.body", "body": body})
        self.ended = True

    async def break_off(self, status: int, message: str, code: str) -> None:
        """End what cannot go on: with an error where none of it was sent, with an error event in a stream."""
        if self._start is not None or self.status is None:
            await self.refuse(Refusal(status, message, code, kind="server_error"))
        elif not self.ended:
            last = answers.error_body(message, "server_error", code)
            event = b"data: " + last + b"\n\n" if self._is_stream else b""
            await self._send({"type": "http.response.body", "body": event})
            self.ended = True

    async def _begin(self, message: Message) -> None:
        self.status = message["status"]
        if message["status"] >= 400:
            self._start = message  # until it is known what it says
            return
        headers = [(name, value) for name, value in message.get("headers", []) if not name.startswith(b"access-control-")]
        self._is_stream = any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)
        await self._send({**message, "headers": headers + self._own_headers()})

    def _own_headers(self) -> Headers:
        more = {**self._id_header, **(self.account.headers() if self.account else {})}
        return [(name.encode(), value.encode()) for name, value in more.items()]

    async def _pass_on(self, message: Message) -> None:
        """A part of an answer that is no stream."""
        if self._start is None:
            self._count_usage(message.get("body", b""))
            self.sending = True
            await self._send(message)
            self.sending = False
            self.ended = not message.get("more_body", False)
            return
        self._error = (self._error + message.get("body", b""))[:_MOST_ERROR_BYTES]
        if not message.get("more_body", False):
            await self._send_error(self._start, self._error)

    async def _send_error(self, start: Message, body: bytes) -> None:
        """The app's refusal as it is if it only speaks of the request, without the server's inside else."""
        status = start["status"]
        if status >= 500 or answers.speaks_of_the_inside(body):
            logger.warning("guard: request %s was answered %d: %s", self.id, status, body.decode(errors="replace"))
            text = answers.failed(self.id) if status >= 500 else answers.refused(self.id)
            body = answers.error_body(text, "server_error" if status >= 500 else "invalid_request_error", status)
        body = answers.in_openai_form(body, status)
        kept = [(n, v) for n, v in start.get("headers", []) if n in (b"retry-after", b"allow", b"www-authenticate")]
        self._start = None
        headers = [*answers.json_headers(body, {}), *kept, *self._own_headers()]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
        self.ended = True

    def _look_at(self, body: bytes) -> bytes:
        """A chunk with token counts or an error in it; what of it the client may see."""
        seen = []
        for event in body.split(b"\n\n"):
            if event.startswith(b'data: {"error"'):
                event = self._masked(event)
            elif b'"usage"' in event and self._count_usage(event) and self.hides_usage and _NO_CHOICES.search(event):
                continue
            seen.append(event)
        return b"\n\n".join(seen)

    def _masked(self, event: bytes) -> bytes:
        try:
            error = json.loads(event[len(b"data: ") :])["error"]
            blame = error.get("code")
        except (ValueError, KeyError, AttributeError):
            blame = None
        client_is_to_blame = isinstance(blame, int) and 400 <= blame < 500
        if client_is_to_blame and not answers.speaks_of_the_inside(event):
            return event
        logger.warning("guard: request %s broke off: %s", self.id, event.decode(errors="replace"))
        return b"data: " + answers.error_body(answers.failed(self.id), "server_error", blame or 500)

    def _count_usage(self, body: bytes) -> bool:
        """Note the last token counts in a body, if it has any. A quote in a text is escaped, so only a field can match."""
        at = body.rfind(b'"usage":')
        prompt, output = (pattern.search(body, at) for pattern in (_PROMPT, _OUTPUT)) if at >= 0 else (None, None)
        if prompt:
            self.prompt_tokens = int(prompt[1])
        if output:
            self.output_tokens = int(output[1])
        return prompt is not None

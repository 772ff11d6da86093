"""A request to the server, and its response with its times. All times are `time.perf_counter`'s."""

from dataclasses import dataclass, field

import msgspec


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it is meant."""

    body: bytes
    prompt_tokens: int
    """Tokens of the text, without what the server adds (template, first token)."""
    output_tokens: int
    """Exactly so many are requested; with `schema`, at most so many."""
    shared_tokens: int | None = 0
    """How many tokens at the prompt's beginning an earlier request was meant to have, too (a shared prefix, earlier turns).
    None: as many as are found, as the prompts are another's."""
    earlier_turns: int = 0
    """Turns of the conversation before this one; the server's template adds tokens around each."""
    digest: str = ""
    """Hash of the prompt alone, without options such as `max_tokens`."""
    blocks: str = ""
    """Hashes of the prompt's beginnings, as `records.blocks_of` makes them."""
    shape: str = ""
    """Roles of the messages, by which the server's own tokens are known; empty where they are not."""
    cancel_after: int | None = None
    """Events with tokens after which the client hangs up on purpose."""
    schema: bool = False
    """Whether the answer must be of ANSWER_SCHEMA."""
    keep_text: bool = False
    """Whether a later turn or a check needs the answer's text."""


class PromptDetails(msgspec.Struct, gc=False):
    """What the server says of a prompt. None: not reported."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    """The server's own count."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = None

    @property
    def cached_tokens(self) -> int | None:
        return self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else None


@dataclass(slots=True)
class Response:
    """What came back for a request. `error` is its kind, by status first; None for a complete response."""

    request: Request
    intended: float
    """When the request should have been sent: latency counts from here."""
    begun: float | None = None
    """When this process began to send it, before any connection was made."""
    sent: float | None = None
    ended: float = 0.0
    """When the response was over, good or bad."""
    times: list[float] = field(default_factory=list)
    """When each event with tokens came."""
    sizes: list[int] = field(default_factory=list)
    """Characters in each of these events."""
    counted: list[int] = field(default_factory=list)
    """The server's count of tokens so far with each event, where it sends one."""
    text_at: int | None = None
    """The number of the first event with more than blanks..."""
    content_at: int | None = None
    """...and of the first one of the answer itself, not of the reasoning before it."""
    usage: Usage | None = None
    finish_reason: str | None = None
    complete: bool = False
    """The stream ended as it should, with [DONE] or a finish reason."""
    cancelled: bool = False
    error: str | None = None
    detail: str = ""
    """The beginning of the server's message with an error."""
    text: str = ""
    """Kept where a later turn or a check needs it."""

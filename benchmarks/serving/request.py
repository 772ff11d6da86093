"""A request to the server, and its response with its times. All times are `time.perf_counter`'s."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it is meant."""

    body: bytes
    prompt_tokens: int
    """Tokens of the text, without what the server adds (template, first token)."""
    output_tokens: int
    exact: bool
    """Whether exactly `output_tokens` are requested, or at most as many."""
    shared_tokens: int = 0
    """How many tokens at the prompt's beginning an earlier request has had, too (a shared prefix, earlier turns)."""
    earlier_turns: int = 0
    """Turns of the conversation before this one; the server's template adds tokens around each."""


@dataclass(slots=True)
class Usage:
    """The server's own count. None where it does not report one."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None


@dataclass(slots=True)
class Response:
    """What came back for a request. `error` is its kind, by status first; None for a complete response."""

    request: Request
    intended: float
    """When the request should have been sent: latency counts from here."""
    sent: float | None = None
    first: float | None = None
    """When the first event with a token came."""
    last: float | None = None
    """When the last event with a token came; what follows it (usage, [DONE]) is no token."""
    gaps: list[float] = field(default_factory=list)
    """Seconds between events with tokens, one after the other."""
    events: int = 0
    """Events with tokens; one can hold several."""
    usage: Usage | None = None
    finish_reason: str | None = None
    complete: bool = False
    """The stream ended as it should, with [DONE] or a finish reason."""
    error: str | None = None
    detail: str = ""
    """The beginning of the server's message with an error."""
    text: str = ""
    """Kept where a later turn or a check needs it."""

"""What is asked of the server in one request, and what came back with the times of it. All times are `time.perf_counter`'s."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it was meant."""

    body: bytes
    prompt_tokens: int
    """Of the text, without what the server adds (template, first token)."""
    output_tokens: int
    exact: bool
    """Whether exactly `output_tokens` were asked for, or at most as many."""
    shared_tokens: int = 0
    """Of the prompt's beginning, how many tokens another request has had before (a shared prefix, earlier turns)."""
    earlier_turns: int = 0
    """Of a conversation; the server's template adds tokens around each."""


@dataclass(slots=True)
class Usage:
    """The server's own count. None where it does not tell."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None


@dataclass(slots=True)
class Answer:
    """One request's way. `error` is its kind, by status first; None for an answer that came whole."""

    asked: Asked
    intended: float
    """When it should have been sent: latency counts from here."""
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
    whole: bool = False
    """The stream ended as it should, with [DONE] or a finish reason."""
    error: str | None = None
    detail: str = ""
    """The beginning of what the server said with an error."""
    text: str = ""
    """Kept where a later turn or a check needs it."""

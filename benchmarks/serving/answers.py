"""Findings on the answers of a run: whether the tokens that the server claims were sent and came, and in which pieces."""

from collections.abc import Iterator
from typing import Literal

from benchmarks.serving.figures import Requests, tpot_ms
from benchmarks.serving.records import Record
from benchmarks.serving.result import Run

_UNREADABLE = 0.9  # of the tokens by usage must be seen in what came
_WRONG_COUNTS = 0.001  # of the requests
_PROMPT_SLACK = 2  # tokens by which the same text can differ at its seams
_MAX_ADDED = 64  # tokens that an unknown chat template adds to a message
_MERGED = 1.5  # tokens in an event
_BLANK_MS, _BLANK_SHARE = 20.0, 0.01
Severity = Literal["invalid", "flagged"]
Findings = Iterator[tuple[str, Severity, str]]
"""Rule, severity and reason of each finding."""


def counts(run: Run, requests: Requests) -> Findings:
    without = sum(record.output_tokens is None for record in requests.ok)
    if without:
        yield "tokens", "invalid", f"{without} responses came without the server's usage"
    wrong = [reason for record in requests.ok if (reason := miscount(record))]
    if wrong:
        severity: Severity = "invalid" if len(wrong) > _WRONG_COUNTS * run.completed else "flagged"
        yield "tokens", severity, f"token counts disagree in {len(wrong)} of {run.completed} responses: {wrong[0]}"


def miscount(record: Record) -> str | None:
    """How the server's count contradicts the request and the response; None where it does not."""
    asked, output, prompt = record.asked_output_tokens, record.output_tokens, record.prompt_tokens
    if output is None or prompt is None:
        return None
    if asked and record.exact and output != asked:
        return f"usage reports {output} output tokens, {asked} were requested"
    if asked and output > asked:
        return f"usage reports {output} output tokens, at most {asked} were requested"
    if len(record.events) > output:
        return f"usage reports {output} output tokens, {len(record.events)} events with text came"
    if record.asked_prompt_tokens is None:
        return None
    # The server's answers to earlier turns are read again, as fewer tokens (special ones have no text) or as more.
    sent, again = record.asked_prompt_tokens, record.asked_prompt_tokens // 2 if record.turn else 0
    added = 0 if record.calibrated else (1 + record.turn) * _MAX_ADDED
    if not sent - again - _PROMPT_SLACK <= prompt <= sent + again + added + _PROMPT_SLACK * (1 + record.turn):
        return f"usage reports {prompt} prompt tokens, {sent} were sent"
    return None


def text(requests: Requests) -> Findings:
    """The tokens must be in what came: as text, or at least as an event each."""
    sampled = [record for record in requests.ok if record.text_tokens is not None and record.output_tokens]
    claimed = sum(record.output_tokens or 0 for record in sampled)
    seen = sum(max(record.text_tokens or 0, len(record.events)) for record in sampled)
    if seen < _UNREADABLE * claimed:
        yield "tokens", "invalid", f"{len(sampled)} sampled responses show {seen} tokens, usage reports {claimed}"


def events(run: Run, requests: Requests) -> Findings:
    per_event = run.figures["tokens_per_event"] or 0.0
    if per_event > _MERGED:
        reason = (
            f"{per_event:.1f} tokens in an event (mean): times between tokens are inferred, by the tokens after the first event"
        )
        yield "events", "flagged", reason
    longer = [record for record in requests.ok if record.output_tokens and record.output_tokens > 1]
    if longer and sum(tpot_ms(record) is None for record in longer) > len(longer) / 2:
        yield "events", "flagged", "answers came in one event: they have no TPOT"
    blank = sum(_blank_first(record, run.figures["gap_p50_ms"] or 0.0) for record in requests.ok)
    if blank > _BLANK_SHARE * len(requests.ok):
        reason = f"{blank} of {len(requests.ok)} answers began with a blank, long before their text: TTFT is not that of a text"
        yield "events", "flagged", reason


def _blank_first(record: Record, gap_ms: float) -> bool:
    """Whether nothing but blanks came first, and the text later than the events' pace explains."""
    if not record.text_at:
        return False
    return sum(record.events[1 : record.text_at + 1]) / 1000 > max(_BLANK_MS, 3 * gap_ms * record.text_at)

"""What is kept of each request: one JSON object on a line, from which every figure can be computed anew, by anybody.

docs/benchmarks.md describes the fields. Prompts themselves are not kept, only hashes that show which of them begin alike.
"""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import pairwise

import msgspec

from apps.common.errors import UserError
from benchmarks.serving.request import Response

_BLOCK_BYTES = 64  # of a prompt's text: about 16 tokens, the smallest block that a prefix cache keeps
_HASH_BYTES = 4


class Record(msgspec.Struct, omit_defaults=True, gc=False):
    """One request. Times are seconds from the run's start."""

    run: int
    """Number of its run in the result, from 0."""
    intended: float
    """When it should have been sent."""
    ended: float
    begun: float | None = None
    """When the client really began to send it."""
    sent: float | None = None
    """When it was written, on a connection."""
    prompt: str = ""
    """Hash of the prompt."""
    blocks: str = ""
    """Hashes, 8 hex digits each, of the prompt's first 64 bytes, its first 128, and so on."""
    turn: int = 0
    asked_prompt_tokens: int | None = None
    """Tokens of the text by the tokenizer, with what the server's template was found to add."""
    asked_output_tokens: int | None = None
    exact: bool = False
    """Whether exactly so many were requested, or at most as many."""
    calibrated: bool = False
    """Whether `asked_prompt_tokens` has the template's tokens in it."""
    declared_shared_tokens: int | None = 0
    """Tokens at its beginning that an earlier prompt was meant to have; None: as many as its blocks show."""
    events: list[int] = []
    """Microseconds: from the intended time to the first event with tokens, then from each to the next."""
    tokens: list[float] = []
    """Tokens in each event, by the server's counts or else by the share of the text; empty: one each."""
    ends_only: bool = False
    """Whether only the first and the last of the events are known, as of another tool."""
    text_at: int | None = None
    """Number of the first event with more than blanks, from 0..."""
    content_at: int | None = None
    """...and of the first one that is not reasoning."""
    prompt_tokens: int | None = None
    """Tokens by the server's usage, as are..."""
    output_tokens: int | None = None
    cached_tokens: int | None = None
    text_tokens: int | None = None
    """Tokens of the text that came, counted anew for some responses."""
    finish: str | None = None
    cancelled: bool = False
    error: str | None = None
    """Kind of error, by status first; None for a complete response."""
    detail: str = ""

    @property
    def is_ok(self) -> bool:
        """Whether the response is complete: neither an error nor cancelled by the client."""
        return self.error is None and not self.cancelled


def record_of(start: float, response: Response, overhead: int | None, error: str | None) -> Record:
    """The record of a response in a run that began at `start`; `overhead` are the template's tokens where they are known."""
    request, usage = response.request, response.usage
    micros = [round(1e6 * (time - response.intended)) for time in response.times]
    return Record(
        run=0,
        intended=_since(start, response.intended) or 0.0,
        begun=_since(start, response.begun),
        sent=_since(start, response.sent),
        ended=_since(start, response.ended) or 0.0,
        prompt=request.digest,
        blocks=request.blocks,
        turn=request.earlier_turns,
        asked_prompt_tokens=request.prompt_tokens + (overhead or 0),
        asked_output_tokens=request.output_tokens,
        exact=not request.schema,
        calibrated=overhead is not None,
        declared_shared_tokens=request.shared_tokens,
        events=[*micros[:1], *(after - before for before, after in pairwise(micros))],
        tokens=_tokens_in_events(response),
        text_at=response.text_at,
        content_at=response.content_at,
        prompt_tokens=usage.prompt_tokens if usage else None,
        output_tokens=usage.completion_tokens if usage else None,
        cached_tokens=usage.cached_tokens if usage else None,
        finish=response.finish_reason,
        cancelled=response.cancelled,
        error=error,
        detail=response.detail,
    )


def _since(start: float, time: float | None) -> float | None:
    return None if time is None else round(time - start, 6)


def _tokens_in_events(response: Response) -> list[float]:
    """How many tokens each event brought; empty where it was one each, or nothing is known."""
    events, counted = len(response.times), response.counted
    if response.usage is None or events == response.usage.completion_tokens:
        return []
    if len(counted) == events and events:
        return [float(counted[0]), *(float(after - before) for before, after in pairwise(counted))]
    each = response.usage.completion_tokens / max(1, sum(response.sizes))
    return [round(size * each, 3) for size in response.sizes]


def blocks_of(text: bytes) -> str:
    """Hashes of the text's beginnings, one for each whole block; that of a longer beginning rests on all before it."""
    digest, hashes = hashlib.blake2b(digest_size=_HASH_BYTES), []
    for end in range(_BLOCK_BYTES, len(text) + 1, _BLOCK_BYTES):
        digest.update(text[end - _BLOCK_BYTES : end])
        hashes.append(digest.copy().hexdigest())
    return "".join(hashes)


def shared_beginnings(records: Iterable[Record]) -> Iterator[tuple[Record, float]]:
    """Each record with the share of its prompt, in whole blocks, at which the prompt of an earlier one begins alike."""
    seen: set[bytes] = set()
    for record in sorted(records, key=lambda record: record.intended):
        raw = bytes.fromhex(record.blocks)
        hashes = [raw[at : at + _HASH_BYTES] for at in range(0, len(raw), _HASH_BYTES)]
        known = next((number for number, each in enumerate(hashes) if each not in seen), len(hashes))
        seen.update(hashes)
        yield record, known / len(hashes) if hashes else 0.0


def encode(records: Iterable[Record]) -> bytes:
    """The lines of a file of records."""
    return msgspec.json.Encoder().encode_lines(records)


def decode(lines: Iterable[bytes], where: str) -> list[Record]:
    """Raises `UserError` for a line that is no record, with its number."""
    decoder, records = msgspec.json.Decoder(Record), []
    for number, line in enumerate(lines, 1):
        try:
            records.append(decoder.decode(line))
        except msgspec.DecodeError as error:
            raise UserError(f"{where}:{number}: not a record of a request: {error}") from error
    return records

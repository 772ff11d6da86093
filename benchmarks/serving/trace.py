"""Traces of real traffic: when requests came, and where the file knows it how long they were and which begin alike.

Read are a time in seconds on each line; JSON lines as Mooncake's (`timestamp` in milliseconds, `input_length`, `output_length`,
`hash_ids` of blocks of 512 tokens); Azure's CSV (TIMESTAMP, ContextTokens, GeneratedTokens); and OpenTelemetry's spans as JSON
lines (`startTimeUnixNano`, and the attributes gen_ai.usage.input_tokens and gen_ai.usage.output_tokens).
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from apps.common.errors import UserError

BLOCK_TOKENS = 512
"""Tokens of a block in Mooncake's traces (arXiv 2407.00079, its FAST'25 traces)."""


@dataclass(frozen=True)
class TraceRow:
    """One request. Lengths are None where the trace has only times."""

    offset_s: float
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    blocks: tuple[int, ...] = ()


def read_trace(path: Path) -> list[TraceRow]:
    """The rows in the order of their times, the first at 0. Raises `UserError` for a file or a line of no known form."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--trace {path}: {error}") from error
    rows = sorted(_rows(path, lines), key=lambda row: row.offset_s)
    if not rows:
        raise UserError(f"--trace {path}: no line in it: give one time in seconds per line, or a trace with lengths")
    if len({row.prompt_tokens is None for row in rows}) == 2:
        raise UserError(f"--trace {path}: some lines have lengths and others not: give them on all lines or on none")
    return [replace(row, offset_s=row.offset_s - rows[0].offset_s) for row in rows]


def _rows(path: Path, lines: list[str]) -> Iterator[TraceRow]:
    header = lines[0] if lines[0].upper().startswith("TIMESTAMP,") else ""
    for number, line in enumerate(lines, 1):
        if not line.strip() or (header and number == 1):
            continue
        try:
            row = _azure(header, line) if header else _json(line)
        except (ValueError, KeyError, TypeError, IndexError, StopIteration) as error:
            raise UserError(
                f"{path}:{number}: {line.strip()[:60]!r} is not a row of a trace: give a time in seconds, "
                "or a line of Mooncake's, Azure's or OpenTelemetry's form"
            ) from error
        yield row


def _azure(header: str, line: str) -> TraceRow:
    values = dict(zip(*csv.reader([header, line]), strict=True))
    time = datetime.fromisoformat(values["TIMESTAMP"][:26]).timestamp()  # they have seven digits below a second
    return _row(time, values["ContextTokens"], values["GeneratedTokens"])


def _json(line: str) -> TraceRow:
    value = json.loads(line)
    if not isinstance(value, dict):
        return TraceRow(float(value))
    if "startTimeUnixNano" in value:
        attributes = _attributes(value.get("attributes") or {})
        lengths = (attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"])
        return _row(int(value["startTimeUnixNano"]) / 1e9, *lengths)
    if "input_length" in value:
        row = _row(float(value["timestamp"]) / 1000, value["input_length"], value["output_length"])
        return replace(row, blocks=tuple(value.get("hash_ids") or ()))
    return TraceRow(float(value["timestamp"]))


def _attributes(attributes: Any) -> dict[str, Any]:
    """Attributes as an object, or as OTLP's list of keys with typed values."""
    if isinstance(attributes, dict):
        return attributes
    return {each["key"]: next(iter(each["value"].values())) for each in attributes}


def _row(time_s: float, prompt: Any, output: Any) -> TraceRow:
    return TraceRow(time_s, max(1, int(prompt)), max(1, int(output)))

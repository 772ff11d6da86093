"""Results in files: the summary with the records of all requests beside it, or both as lines in a job's log."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from apps.common.errors import UserError
from benchmarks.serving import foreign
from benchmarks.serving.figures import Requests, figures
from benchmarks.serving.records import Record, decode, encode
from benchmarks.serving.result import FORM, RecordsOf, Result

_RECORD = b'{"run":'  # how each of our lines begins
_SUFFIX = ".requests.jsonl"


@dataclass(frozen=True)
class Stored:
    """A result with the records of each run; None where they are missing, and why."""

    result: Result
    records: list[list[Record]] | None
    why_not: str = ""


def write(result: Result, records: Sequence[Sequence[Record]], out: str) -> str:
    """Write both to a path, a URL of a bucket (`gs://bucket/folder/r.json`), or with `-` as lines to stdout; where they are."""
    for number, run_records in enumerate(records):
        for record in run_records:
            record.run = number
    lines = encode(chain.from_iterable(records))
    folder, _, name = out.rpartition("/")
    beside = "the lines below" if out == "-" else name.removesuffix(".json") + _SUFFIX
    result.records = RecordsOf(file=beside, sha256=hashlib.sha256(lines).hexdigest(), requests=sum(map(len, records)))
    if out == "-":
        print(result.model_dump_json())
        print(lines.decode(), end="", flush=True)
        return "stdout"
    summary = (result.model_dump_json(indent=1) + "\n").encode()
    if "://" in out:
        from apps.weights.store import Store

        store = Store(folder)
        store.write(beside, lines)
        store.write(name, summary)
    else:
        path = Path(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(beside).write_bytes(lines)
        path.write_bytes(summary)
    return f"{out} and {beside}"


def read(path: Path) -> Stored:
    """A stored result, the log of a job that printed one, or the output of another tool. Raises `UserError` for others."""
    try:
        data = path.read_bytes() if path.is_file() else b""
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from error
    if not data and not path.is_dir():
        raise UserError(f"{path}: no such file, or an empty one")
    value = _json(text)
    if isinstance(value, dict) and "form" in value:
        result = _result(path, value)
        return _with_records(result, _beside(path, result))
    lines = data.splitlines(keepends=True)
    summaries = [summary for line in lines if FORM.encode() in line[:40] and (summary := _json(line.decode()))]
    if summaries:
        result = _result(path, summaries[-1])
        return _with_records(result, b"".join(line for line in lines if line.startswith(_RECORD)))
    if other := foreign.read(path, value):
        return Stored(*other)
    raise UserError(
        f"{path}: not a result of benchmarks.serving, nor a job's log with one, nor the output of {', '.join(foreign.TOOLS)}"
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _result(path: Path, value: dict[str, Any]) -> Result:
    if value["form"] != FORM:
        raise UserError(f"{path}: its form is {value['form']!r}; this version reads {FORM}: measure again")
    try:
        result = Result.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: not a result of benchmarks.serving: {where}: {first['msg']}") from error
    for run in result.runs:
        missing = figures(Requests([], run.load, 1.0), result.setting.slo, None).keys() - run.figures.keys()
        if missing:
            raise UserError(f"{path}: not a result of benchmarks.serving: a run has no {min(missing)}")
    return result


def _beside(path: Path, result: Result) -> bytes:
    file = path.with_name(Path(result.records.file).name) if result.records else None
    return file.read_bytes() if file and file.is_file() else b""


def _with_records(result: Result, data: bytes) -> Stored:
    stated = result.records
    if stated is None or not data:
        return Stored(result, None, "the records of its requests are not there")
    if hashlib.sha256(data).hexdigest() != stated.sha256:
        return Stored(result, None, f"{stated.file} is not the file that it was computed from (another SHA-256)")
    runs: list[list[Record]] = [[] for _ in result.runs]
    for record in decode(data.splitlines(), stated.file):
        if record.run >= len(runs):
            raise UserError(f"{stated.file}: a record of run {record.run}, and the result has {len(runs)}")
        runs[record.run].append(record)
    return Stored(result, runs)

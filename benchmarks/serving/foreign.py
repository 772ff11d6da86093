"""Results of other tools, as far as they say what each request did: read into our records, so that the same rules hold."""

from pathlib import Path
from typing import Any

from benchmarks.serving.records import Record
from benchmarks.serving.result import Result

TOOLS = ()


def read(path: Path, value: Any) -> tuple[Result, list[list[Record]]] | None:
    return None

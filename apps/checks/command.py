"""`scripts/validate.py`: check Serve configs before they are deployed."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(argv: Sequence[str]) -> int:
    """Exit code 0 if there are no errors (warnings may be), 2 if there are or a file cannot be read."""
    options = _parse(argv)
    from apps.checks.serve_rules import check_serve_config  # after the options: --help needs none of it
    from apps.checks.source import read
    from apps.errors import UserError

    rows: list[dict[str, Any]] = []
    for file in options.files:
        try:
            source = read(file)
        except UserError as error:
            rows.append(_row(file, None, "error", "", str(error)))
            continue
        found = check_serve_config(source.content, direct_streaming=not options.classic, slices=options.slices)
        for one in sorted(found, key=lambda one: source.line(one.path)):
            row = _row(file, source.line(one.path), one.severity, one.where, one.message)
            rows.append(row | {"value": _plain(one.value), "allowed": one.allowed, "did_you_mean": one.did_you_mean})
    print(json.dumps(rows, indent=1) if options.json else _text(rows, len(options.files)))
    return 2 if any(row["severity"] == "error" for row in rows) else 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/validate.py",
        description="Check Serve configs strictly and offline: every key and argument of Ray and vLLM, the slice, its memory.",
    )
    parser.add_argument("files", metavar="FILE", type=Path, nargs="+", help="a Serve config, such as serve_configs/gemma.yaml")
    parser.add_argument("--json", action="store_true", help="print a list of findings with severity, path and message")
    parser.add_argument("--slices", type=int, default=1, help="TPU slices that the cluster has (default: %(default)s)")
    parser.add_argument("--classic", action="store_true", help="check for Ray's default ingress instead of direct streaming")
    return parser.parse_args(argv)


def _row(file: Path, line: int | None, severity: str, path: str, message: str) -> dict[str, Any]:
    empty = {"value": None, "allowed": None, "did_you_mean": None}
    return {"file": str(file), "line": line, "severity": severity, "path": path, "message": message} | empty


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _text(rows: list[dict[str, Any]], files: int) -> str:
    lines = [_line(row) for row in rows]
    errors = sum(row["severity"] == "error" for row in rows)
    counts = (_count(files, "file"), _count(errors, "error"), _count(len(rows) - errors, "warning"))
    return "\n".join([*lines, "{}: {}, {}".format(*counts)])


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _line(row: dict[str, Any]) -> str:
    if row["line"] is None:
        return f"{row['severity']}: {row['message']}"
    more = [f"allowed: {row['allowed']}"] if row["allowed"] else []
    more += [f"did you mean {row['did_you_mean']}?"] if row["did_you_mean"] else []
    tail = f" ({'; '.join(more)})" if more else ""
    return f"{row['file']}:{row['line']}: {row['severity']}: {row['path']}: {row['message']}{tail}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

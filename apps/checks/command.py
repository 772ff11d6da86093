"""`scripts/validate.py`: check Serve configs before they are deployed."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apps.checks.findings import Finding
from apps.common.command_line import reports_errors

Row = tuple[Path, int | None, Finding]
"""A file, the line in it (None for a file that cannot be read), and a finding."""


@reports_errors()
def main(argv: Sequence[str]) -> int:
    """Return 0 if there are no errors (there may be warnings), 2 if there are or a file cannot be read."""
    options = _parse(argv)
    from apps.checks.serve_rules import check_serve_config  # after the options: --help needs none of it
    from apps.checks.source import read
    from apps.common.errors import UserError

    rows: list[Row] = []
    for file in options.files:
        try:
            source = read(file)
        except UserError as error:
            rows.append((file, None, Finding((), str(error))))
            continue
        findings = check_serve_config(source.content, direct_streaming=not options.classic, slices=options.slices)
        lines = [(source.line(finding.path), finding) for finding in findings]
        rows += [(file, line, finding) for line, finding in sorted(lines, key=lambda row: row[0])]
    print(json.dumps([_plain(*row) for row in rows], indent=1) if options.json else _text(rows, len(options.files)))
    return 2 if any(finding.severity == "error" for _, _, finding in rows) else 0


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


def _plain(file: Path, line: int | None, finding: Finding) -> dict[str, Any]:
    where = finding.where if line else ""
    value = finding.value if isinstance(finding.value, str | int | float | bool | None) else str(finding.value)
    head = {"file": str(file), "line": line, "severity": finding.severity, "path": where, "message": finding.message}
    return head | {"value": value, "allowed": finding.allowed, "did_you_mean": finding.did_you_mean}


def _text(rows: Sequence[Row], files: int) -> str:
    lines = [
        f"{file}:{line}: {finding.severity}: {finding}" if line else f"{finding.severity}: {finding.message}"
        for file, line, finding in rows
    ]
    errors = sum(finding.severity == "error" for _, _, finding in rows)
    counts = (_count(files, "file"), _count(errors, "error"), _count(len(rows) - errors, "warning"))
    return "\n".join([*lines, "{}: {}, {}".format(*counts)])


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

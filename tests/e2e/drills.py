"""Figures that the drills measured: each records its row while it runs.

`python -m tests.e2e.drills` prints the table of docs/operations.md.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from tests.chat.browser import ARTIFACTS
from tests.e2e.load import Story

_FILE = ARTIFACTS / "drills.json"
_COLUMNS = {"noticed": "noticed", "served": "serves again", "lost": "requests lost", "saw": "what was seen"}


@dataclass(frozen=True)
class Row:
    """A drill's figures, as words for the table; empty where there is nothing to measure."""

    noticed: str = ""
    served: str = ""
    lost: str = ""
    saw: str = ""


def report(drill: str, row: Row) -> None:
    """Print a drill's row and record it for the table; a later run of the same drill replaces it."""
    print(f"\ndrill: {_line(drill, asdict(row))}")
    ARTIFACTS.mkdir(exist_ok=True)
    _FILE.write_text(json.dumps({**_recorded(), drill: asdict(row)}, indent=1))


def under_load(drill: str, story: Story, *, noticed: str = "", served: str = "", saw: str = "") -> None:
    """Report the row of a drill under load; `noticed` and `served` replace the figures, and `saw` is appended to them."""
    load, noticed_s = story.load, story.noticed_s
    back = f"{story.served_s:.0f} s" + (" after its return" if story.mended_s is not None else "")
    report(
        drill,
        Row(
            noticed or ("" if noticed_s is None else f"{noticed_s:.0f} s"),
            served or ("without a pause" if noticed_s is None else back),
            load.losses,
            "; ".join(part for part in (load.saw, saw) if part) or "nothing",
        ),
    )


def main() -> int:
    """Print the table; exit 1 where no drill has run."""
    rows = _recorded()
    lines = [_line("drill", _COLUMNS), "|---" * (len(_COLUMNS) + 1) + "|"]
    lines += [_line(drill, row) for drill, row in rows.items()]
    print("\n".join(lines) if rows else "no drill has run here: scripts/test.sh tests/e2e")
    return 0 if rows else 1


def _line(first: str, row: Mapping[str, str]) -> str:
    return f"| {' | '.join((first, *(row[column] for column in _COLUMNS)))} |"


def _recorded() -> dict[str, dict[str, str]]:
    return dict(json.loads(_FILE.read_text())) if _FILE.exists() else {}


if __name__ == "__main__":
    sys.exit(main())

"""What the drills measured: each notes its figure while it runs, and `python -m tests.e2e.drills` prints the README's table."""

import json
import sys

from tests.e2e.conftest import ARTIFACTS

_FILE = ARTIFACTS / "drills.json"


def report(drill: str, figure: str) -> None:
    """Print a drill's figure and note it for the table; a later run of the same drill replaces it."""
    print(f"\ndrill: {drill}: {figure}")
    ARTIFACTS.mkdir(exist_ok=True)
    _FILE.write_text(json.dumps({**_noted(), drill: figure}, indent=1))


def main() -> int:
    """Print the table; exit 1 where no drill has run."""
    found = _noted()
    rows = [f"| {drill} | {figure} |" for drill, figure in found.items()]
    table = ["| drill | what was measured |", "|---|---|", *rows]
    print("\n".join(table) if rows else "no drill has run here: scripts/test.sh tests/e2e")
    return 0 if rows else 1


def _noted() -> dict[str, str]:
    return dict(json.loads(_FILE.read_text())) if _FILE.exists() else {}


if __name__ == "__main__":
    sys.exit(main())

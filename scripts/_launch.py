"""Run a command of this project with its own Python, wherever and with whichever Python it was called."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_PYTHON = ROOT / ".venv" / "bin" / "python"
_NEEDED = ("jsonschema", "kubernetes", "pydantic", "rich", "yaml")


def launch(*command: str) -> None:
    """Run a command of `rts` with this command line, and end with its exit code."""
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        if not _PYTHON.exists() or Path(sys.prefix) == _PYTHON.parents[1]:
            print(f"error: {_PYTHON.parents[1]} is not complete: scripts/serve_local.sh --detach installs it", file=sys.stderr)
            sys.exit(2)
        os.execv(_PYTHON, [str(_PYTHON), *sys.argv])  # noqa: S606 - this script again, by the project's Python
    sys.path.insert(0, str(ROOT))
    sys.exit(importlib.import_module("scripts.rts").main([*command, *sys.argv[1:]]))

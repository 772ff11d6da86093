"""Run a command of this project with its own Python, from wherever and by whichever Python it was called."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_PYTHON = ROOT / ".venv" / "bin" / "python"
_TELLING = ("jsonschema", "pydantic", "yaml")  # what every command needs


def launch(module: str) -> None:
    """Call `main` of a module with the command line, and end with its exit code."""
    if any(importlib.util.find_spec(name) is None for name in _TELLING):
        if not _PYTHON.exists():
            sys.exit("error: .venv is missing: scripts/serve_local.sh --detach makes it (stop it with scripts/stop_local.sh)")
        os.execv(_PYTHON, [str(_PYTHON), *sys.argv])  # noqa: S606 - this script again, by the project's Python
    sys.path.insert(0, str(ROOT))
    sys.exit(importlib.import_module(module).main(sys.argv[1:]))

"""Run a command of this project with its own Python, wherever and with whichever Python it was called."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_PYTHON = ROOT / ".venv" / "bin" / "python"
_NEEDED = ("jsonschema", "kubernetes", "pydantic", "rich", "yaml")
_OF_OTHER_PYTHONS = ("PYTHONHOME", "PYTHONPATH")


def launch(*command: str) -> None:
    """Run a command of `rts` with this command line, and end with its exit code."""
    is_own = Path(sys.executable) == _PYTHON
    incomplete = any(importlib.util.find_spec(name) is None for name in _NEEDED)
    if incomplete and (is_own or not _PYTHON.exists()):
        print(f"error: {_PYTHON.parents[1]} is not complete: scripts/serve_local.sh --detach installs it", file=sys.stderr)
        sys.exit(2)
    if _PYTHON.exists() and (incomplete or any(name in os.environ for name in _OF_OTHER_PYTHONS)):
        environment = {name: value for name, value in os.environ.items() if name not in _OF_OTHER_PYTHONS}
        environment["RTS_PYTHONPATH"] = os.environ.get("PYTHONPATH", "")  # for the user's apps alone, as in _environment.sh
        os.execve(_PYTHON, [str(_PYTHON), *sys.argv], environment)  # noqa: S606 - this script again, by the project's Python
    sys.path.insert(0, str(ROOT))
    sys.exit(importlib.import_module("scripts.rts").main([*command, *sys.argv[1:]]))

#!/usr/bin/env python3
"""Make, list, rotate and revoke keys of the API. `scripts/keys.py --help` lists the options."""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv" / "bin" / "python"

if importlib.util.find_spec("pydantic") is None:
    if not PYTHON.exists():
        sys.exit("error: .venv is missing: scripts/serve_local.sh --detach makes it (stop it with scripts/stop_local.sh)")
    os.execv(PYTHON, [str(PYTHON), __file__, *sys.argv[1:]])  # noqa: S606 - this script again, by the project's Python

sys.path.insert(0, str(ROOT))
from apps.guard.command import main  # noqa: E402 - the path comes first

sys.exit(main(sys.argv[1:]))

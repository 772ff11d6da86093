"""The user's own modules (PYTHONPATH), for the apps that she serves beside the model.

They come last on the path of the stack's processes: a file of hers that is called like a package of theirs shadows nothing.
"""

import os
from collections.abc import Mapping
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]
KEPT = "RTS_PYTHONPATH"
"""Where the scripts keep the user's PYTHONPATH, which does not reach this project's own processes."""
_SITE = Path(__file__).parent / "site"


def path_variables(inherited: Mapping[str, str]) -> dict[str, str]:
    """Variables of a process of the stack: this project first, then what is installed, then the user's modules."""
    wanted = inherited.get(KEPT) or inherited.get("PYTHONPATH") or ""
    entries = [os.path.abspath(entry) for entry in wanted.split(os.pathsep) if entry]
    own = [entry for entry in entries if Path(entry) not in (PROJECT_ROOT, _SITE)]
    return {"PYTHONPATH": os.pathsep.join([str(PROJECT_ROOT), str(_SITE)]), KEPT: os.pathsep.join(own)}

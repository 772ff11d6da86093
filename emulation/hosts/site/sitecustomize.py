"""What each Python of a local stack runs first: it adds the user's own modules to the end of the path (see user_path)."""

import os
import sys

sys.path += [entry for entry in os.environ.get("RTS_PYTHONPATH", "").split(os.pathsep) if entry]

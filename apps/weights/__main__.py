"""`python -m apps.weights ...`."""

import sys

from apps.weights.command import main

sys.exit(main(sys.argv[1:]))

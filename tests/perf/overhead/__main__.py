"""What our stack costs over a bare server: the same engine arguments, the same load, in one run, taking turns.

    python -m tests.perf.overhead                against bare vLLM on this CPU; prints a table
    python -m tests.perf.overhead --engine sim   the simulated engine, bare and on the emulated slice, 1 to 1,024 streams
    python -m tests.perf.overhead --json         one object with every round's figures, and what was added

Our stack has its guard on. It is measured by both of its paths, one stack after the other, each in turns with the bare server:
direct streaming, and Ray Serve's default ingress. While one server is measured the other is idle: the bare one is paused, our
stack is not (Ray's heartbeats would stop), which costs the bare one the little that our idle stack uses; that is printed.
"""

import argparse
import sys
from collections.abc import Sequence

from apps.common.command_line import reports_errors
from benchmarks.option_types import whole

_PATHS = ("direct", "classic")


@reports_errors()
def main(argv: Sequence[str]) -> int:
    options = _parse(argv)
    from tests.perf.overhead.measure import measure  # after the options: --help needs none of it

    measure(options, _PATHS if options.path == "both" else (options.path,))
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.perf.overhead", description="Our stack against the bare server of the same engine, in one run."
    )
    parser.add_argument(
        "--engine", choices=("cpu", "sim"), default="cpu", help="real vLLM, or simulated (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=whole(1, 1000), default=3, help="turns of each server (default: %(default)s)")
    parser.add_argument("--requests", type=whole(1, 1000), default=8, help="per round, one client (default: %(default)s)")
    parser.add_argument(
        "--requests-per-client", type=whole(1, 1000), default=2, help="per round, more clients (default: %(default)s)"
    )
    parser.add_argument(
        "--path",
        choices=("both", *_PATHS),
        default="both",
        help="of our stack: direct streaming, Ray Serve's default ingress, or one after the other (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What the guard costs: the same engine without and with it, both servers in one run, taking turns.

    python -m tests.perf.guard          the simulated engine at 512 streams, then vLLM on this CPU; prints a table
    python -m tests.perf.guard --json   one object with the ratios and every round's figures
    python -m tests.perf.guard --own    only the guard's own work, by part, in microseconds of CPU: no sockets, half a minute

The simulated engine is asked at a pace that leaves its web server time, as a real one does (time to first token), and as fast
as one process can send tokens (throughput: there all that is measured is the web server, so the guard weighs most). The guard's
part of the time to first token is measured in the server too, as a client's figures have the jitter of 512 streams in them.
Without the guard means none of its code at all. Client and server are processes of their own.
"""

import argparse
import sys
from collections.abc import Sequence

from apps.common.command_line import reports_errors


@reports_errors()
def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    from tests.perf.guard.measure import measure  # after the options: --help needs none of it

    measure(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.perf.guard", description="The guard against none, in one run.")
    parser.add_argument("--rounds", type=_positive, default=3, help="turns of each server (default: %(default)s)")
    parser.add_argument("--streams", type=_positive, default=512, help="of the simulated engine (default: %(default)s)")
    parser.add_argument("--engine", choices=("both", "sim", "cpu"), default="both", help="default: %(default)s")
    parser.add_argument("--own", action="store_true", help="only the guard's own work")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1000")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m benchmarks.serving`: options are checked before anything heavy is imported."""

import sys
from collections.abc import Sequence

from apps.common.command_line import reports_errors


@reports_errors("stopped; nothing was written")
def main(argv: Sequence[str]) -> int:
    """Exit code: 2 for bad options or input, 1 for a server that does not respond or a `check` that finds a result invalid."""
    if argv[:1] == ["check"]:
        from benchmarks.serving.check import check

        return check(argv[1:])
    from benchmarks.serving.options import parse

    options = parse(argv)
    from benchmarks.serving.command import run

    run(options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

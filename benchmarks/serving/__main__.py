"""`python -m benchmarks.serving`: options are checked before anything heavy is imported."""

import sys
from collections.abc import Sequence

from apps.common.errors import BundleError
from benchmarks.serving.options import parse


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 2 for bad options or input, 1 for a server that does not answer."""
    options = parse(argv)
    from benchmarks.serving.command import run

    try:
        run(options)
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

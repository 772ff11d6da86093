"""How every command of this project starts, reports an error that is meant for people, and ends on Ctrl-C."""

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

from apps.common.errors import BundleError
from apps.common.settings import keep_loopback_direct

INTERRUPTED = 130
"""Exit code after Ctrl-C, by the shells' convention."""

NOTHING_LEFT = 100
"""Exit code of a check after which the scripts have nothing to run, as after --help; theirs is then 0."""

P = ParamSpec("P")


def reports_errors(interrupted: str = "stopped") -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Decorate a function that returns a command's exit code: errors become one line on stderr, Ctrl-C prints `interrupted`.

    What the command asks on this machine, it and its children ask directly, whatever proxy the user's environment has.
    """

    def decorate(main: Callable[P, int]) -> Callable[P, int]:
        @functools.wraps(main)
        def wrapper(*args: P.args, **options: P.kwargs) -> int:
            keep_loopback_direct()
            try:
                code = main(*args, **options)
                sys.stdout.flush()  # here, not at the interpreter's end, which would complain of a closed pipe
                return code
            except BundleError as error:
                print(f"error: {error}", file=sys.stderr)
                return error.exit_code
            except KeyboardInterrupt:
                print(f"\n{interrupted}", file=sys.stderr)
                return INTERRUPTED
            except BrokenPipeError:  # `| head` has read enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 0
            except OSError as error:
                if error.filename is None:  # of a network, or a fault of ours
                    raise
                print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
                return 1

        return wrapper

    return decorate


@reports_errors()
def check_options(is_done: Callable[[], bool]) -> int:
    """Exit code of a script's check before its environment is installed: 0 to go on, `NOTHING_LEFT`, or an error's."""
    try:
        return NOTHING_LEFT if is_done() else 0
    except SystemExit as end:  # argparse's
        if end.code:
            raise
        return NOTHING_LEFT

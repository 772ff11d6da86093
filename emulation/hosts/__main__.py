"""`python -m emulation.hosts {up,down,slice}`; `check` before it looks at the options and at this machine, no more."""

import sys

from apps.common.command_line import check_options
from emulation.hosts import options, preflight, record
from emulation.hosts.options import DownOptions, UpOptions


def main(argv: list[str]) -> int:
    if argv[:1] == ["check"]:
        return check_options(lambda: _is_done(argv[1:]))
    parsed = options.parse(argv)
    from emulation.hosts import command  # heavy: only once there is something to do

    return command.run(parsed, argv)


def _is_done(argv: list[str]) -> bool:
    """Refuse what cannot go well, with what a bare Python has. True where nothing is left to do."""
    parsed = options.parse(argv)
    if isinstance(parsed, DownOptions) and not record.all_records():
        print("nothing is running")
        return True
    if isinstance(parsed, UpOptions) and record.read_record(parsed.port) is None:
        preflight.check_start(parsed)
        preflight.warn_of_few_cores()
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

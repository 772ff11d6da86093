"""`python -m emulation.hosts {up,down}`; `check-options` parses the options of one of them and does nothing else."""

import sys

from emulation.hosts import options


def main(argv: list[str]) -> int:
    if argv[:1] == ["check-options"]:
        options.parse(argv[1:])
        return 0
    parsed = options.parse(argv)
    from emulation.hosts import command  # heavy: only once there is something to do

    return command.run(parsed, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

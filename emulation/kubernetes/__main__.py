"""`python -m emulation.kubernetes COMMAND`; `check` before it looks at the options of one, and does nothing else."""

import sys
from pathlib import Path

from apps.common.command_line import check_options
from emulation.kubernetes import options


def main(argv: list[str]) -> int:
    if argv[:1] == ["check"]:
        return check_options(lambda: not options.parse(argv[1:]))
    if argv[:1] == ["supervise"]:  # what `up` starts
        from emulation.kubernetes import supervisor

        return supervisor.run(Path(argv[1]), int(argv[2]) if argv[2:] else None)
    if argv[:1] == ["emulate"]:  # what the supervisor starts
        from emulation.kubernetes.nodes import machine

        return machine.run(Path(argv[1]), argv[2], running=argv[3] == "running")
    parsed = options.parse(argv)
    from emulation.kubernetes import command  # heavy: only once it is known that there is something to do

    return command.run(parsed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

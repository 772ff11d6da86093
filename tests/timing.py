"""How long a command takes, whatever else the machine does meanwhile."""

import resource
from collections.abc import Callable


def processor_s(run: Callable[[], object]) -> float:
    """Seconds of processor time of the child processes that `run` starts and waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

"""What a tier of the tests leaves out is named at the end of its run: what was not tried must not look as if it had passed."""

from collections import Counter
from collections.abc import Sequence

import pytest

_left_out: Counter[str] = Counter()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count what `-m` leaves out."""
    _left_out.update(item.nodeid.partition("::")[0] for item in items)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the files that `scripts/test.sh --all` would run tests of."""
    if _left_out and config.option.markexpr == "not full":
        terminalreporter.section("left to scripts/test.sh --all")
        for file, count in sorted(_left_out.items()):
            terminalreporter.write_line(f"{count:4} {file}")

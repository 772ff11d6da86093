"""The command `python -m benchmarks.report`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from apps.common.command_line import reports_errors
from benchmarks.option_types import price, whole


@reports_errors()
def main(argv: Sequence[str]) -> int:
    """Exit code: 2 for bad input, 1 if a run is invalid (the page lists which and why)."""
    options = _parse(argv)
    from benchmarks.report.page import build, csv, html, markdown
    from benchmarks.report.series import read_series

    all_series = read_series(options.results)
    report = build(all_series, options.price, options.watts, options.chips)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(html(report, all_series))
    options.out.with_suffix(".md").write_text(markdown(report))
    options.out.with_suffix(".csv").write_text(csv(all_series))
    for reason, names in report.invalid.items():
        print(f"invalid: {names}: {reason}", file=sys.stderr)
    print(f"written: {options.out}, and the same with .md and .csv")
    return 1 if report.invalid else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description="One page (HTML and Markdown) and the figures as CSV from results. Others are compared with the first.",
    )
    add = parser.add_argument
    add(
        "results",
        nargs="+",
        type=Path,
        metavar="RESULT",
        help="files of benchmarks.serving, logs of jobs that printed one, or outputs of other tools (`rts bench check`)",
    )
    add("--out", type=Path, default=Path("report.html"), metavar="PAGE.html", help="default: %(default)s")
    add("--price", type=price, metavar="X", help="of a chip for an hour: gives the cost of a million tokens")
    add("--watts", type=price, metavar="W", help="of a chip under this load, as measured: gives the energy of a million tokens")
    add("--chips", type=whole(1, 100_000), metavar="N", help="how many, where the result has no Serve config")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

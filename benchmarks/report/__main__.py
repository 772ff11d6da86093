"""The command `python -m benchmarks.report`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from apps.common.command_line import reports_errors


@reports_errors()
def main(argv: Sequence[str]) -> int:
    """Exit code: 2 for bad input, 1 if a run was refused as invalid (the page says which and why)."""
    options = _parse(argv)
    from benchmarks.report.page import build, html, markdown
    from benchmarks.report.series import read_series

    all_series = read_series(options.results)
    report = build(all_series, options.price, options.chips)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(html(report, all_series))
    options.out.with_suffix(".md").write_text(markdown(report))
    for group in report.refused:
        print(f"refused: {'; '.join(group.runs)}: {group.reason}", file=sys.stderr)
    print(f"written: {options.out}, {options.out.with_suffix('.md')}")
    return 1 if report.refused else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description="One page (HTML and Markdown) from results of benchmarks.serving. Others are compared with the first.",
    )
    parser.add_argument(
        "results", nargs="+", type=Path, metavar="RESULT", help="files that benchmarks.serving wrote with --out"
    )
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="PAGE.html", help="default: %(default)s")
    parser.add_argument(
        "--price", type=_positive, metavar="X", help="of a chip for an hour: gives the cost of a million tokens"
    )
    parser.add_argument("--chips", type=_chips, metavar="N", help="how many, where the result has no Serve config that tells")
    return parser.parse_args(argv)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a price: give a number above 0")
    return value


def _chips(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of chips")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A result for the terminal: a block for each run, and what the honesty gate says of it."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.serving.figures import TIMES
from benchmarks.serving.measure import ATTAINED
from benchmarks.serving.result import Result, Run
from benchmarks.serving.validation import best_rate, examine

_STATISTICS = ("mean", "p50", "p90", "p99")


def print_result(result: Result) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for run in result.runs:
        console.print(_times(run))
        console.print("  ".join(_rates(run)))
        for kind, count in run.errors.most_common():
            console.print(escape(f"{count} x {kind} {run.error_examples.get(kind, '')}"))
        for finding in examine(result.setting, run):
            console.print(escape(str(finding)), style="red" if finding.severity == "refused" else "yellow")
        console.print()
    if best := best_rate(result):
        console.print(f"Highest rate with {ATTAINED:.0%} of the requests within the SLO: {best:g} requests/s")
    elif result.best_rate:
        console.print(f"The highest rate within the SLO, {result.best_rate:g} requests/s, rests on a refused run")


def _times(run: Run) -> Table:
    title = f"{run.load.label}: {run.completed} answers in {run.elapsed_s:.1f} s, {run.errors.total()} errors"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("ms")
    for name in _STATISTICS:
        table.add_column(name, justify="right")
    for time in TIMES:
        table.add_row(time.upper(), *(_number(run.figures[f"{time}_{name}_ms"]) for name in _STATISTICS))
    return table


def _rates(run: Run) -> list[str]:
    found = {"requests/s": "requests_per_s", "output tok/s": "output_tok_per_s", "total tok/s": "total_tok_per_s"}
    if run.good is not None:
        found["within SLO/s"] = "goodput_per_s"
    return [f"{title} {_number(run.figures[name])}" for title, name in found.items()]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if value < 100 else f"{value:,.1f}" if value < 10_000 else f"{value:,.0f}"

"""A load in the terminal: while it runs a bar, or a line every five seconds in a log, on stderr; then the result as tables."""

import time

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from benchmarks.serving.load import Sender
from benchmarks.serving.measure import ATTAINED
from benchmarks.serving.result import STATISTICS, TIMES, Result, Run, format_number
from benchmarks.serving.tally import Tally
from benchmarks.serving.validation import best_rate, validate

_LINE_S = 5.0
_BAR_S = 0.2


class LoadProgress:
    """Use as a context manager; `update` is called after each response and does little."""

    def __init__(self, total_s: float | None, total_requests: int | None) -> None:
        self._console = Console(stderr=True)
        self._total_s, self._total_requests = total_s, total_requests
        self._next, self._label = 0.0, ""
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn(),
            console=self._console, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=1.0, state="")

    def update(self, label: str, sender: Sender, tally: Tally) -> None:
        now = time.perf_counter()
        if now < self._next and label == self._label:
            return
        terminal = self._console.is_terminal
        self._label, self._next = label, now + (_BAR_S if terminal else _LINE_S)
        counts = tally.counts
        rate = counts.output_tokens / max(now - tally.start, 1e-3)
        state = f"{counts.completed} responses, {counts.errors.total()} errors, {sender.in_flight} open, {rate:,.0f} tok/s"
        if terminal:
            self._bar.update(self._task, description=label, state=state, completed=self._share(now, tally))
        else:
            self._console.print(f"{label}: {state}", soft_wrap=True, highlight=False)

    def _share(self, now: float, tally: Tally) -> float:
        by_time = (now - tally.start) / self._total_s if self._total_s else 0.0
        by_count = tally.ended / self._total_requests if self._total_requests else 0.0
        return min(1.0, max(by_time, by_count))

    def __enter__(self) -> "LoadProgress":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def print_result(result: Result) -> None:
    """A block for each run, with the findings against it."""
    console = Console(highlight=False, soft_wrap=True)
    for run in result.runs:
        console.print(_times(run))
        console.print("  ".join(_rates(run)))
        for kind, count in run.errors.most_common():
            console.print(escape(f"{count} x {kind} {run.error_examples.get(kind, '')}"))
        for finding in validate(result.setting, run):
            console.print(escape(str(finding)), style="red" if finding.severity == "invalid" else "yellow")
        console.print()
    if best := best_rate(result):
        console.print(f"Highest rate with {ATTAINED:.0%} of the requests within the SLO: {best:g} requests/s")
    elif result.best_rate:
        console.print(f"The highest rate within the SLO, {result.best_rate:g} requests/s, rests on an invalid run")


def _times(run: Run) -> Table:
    title = f"{run.load.label}: {run.completed} responses in {run.elapsed_s:.1f} s, {run.errors.total()} errors"
    columns = [Column(name, justify="right") for name in STATISTICS]
    table = Table("ms", *columns, title=title, title_justify="left", title_style="bold")
    for time_name in TIMES:
        table.add_row(time_name.upper(), *(format_number(run.figures[f"{time_name}_{name}_ms"]) for name in STATISTICS))
    return table


def _rates(run: Run) -> list[str]:
    names = {"requests/s": "requests_per_s", "output tok/s": "output_tok_per_s", "total tok/s": "total_tok_per_s"}
    if run.good is not None:
        names["within SLO/s"] = "goodput_per_s"
    return [f"{title} {format_number(run.figures[name])}" for title, name in names.items()]

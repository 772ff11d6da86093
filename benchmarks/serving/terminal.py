"""A load in the terminal: while it runs a bar, or a line every five seconds in a log, on stderr; then the result as tables."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from benchmarks.serving.load import Progress as Seen
from benchmarks.serving.result import STATISTICS, Result, Run, format_number, times_of
from benchmarks.serving.sweep import ATTAINED
from benchmarks.serving.validation import ValidatedRun, is_valid_best

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
            console=self._console, transient=True, disable=not self._console.is_terminal,
            auto_refresh=False,  # without a thread, as the process may fork
        )  # fmt: skip
        self._task = self._bar.add_task("", total=1.0, state="")

    def update(self, label: str, seen: Seen) -> None:
        now = time.perf_counter()
        if now < self._next and label == self._label:
            return
        terminal = self._console.is_terminal
        self._label, self._next = label, now + (_BAR_S if terminal else _LINE_S)
        rate = seen.output_tokens / max(now - seen.start, 1e-3)
        state = f"{seen.completed} responses, {seen.errors} errors, {seen.in_flight} open, {rate:,.0f} tok/s"
        if terminal:
            self._bar.update(self._task, description=label, state=state, completed=self._share(now, seen), refresh=True)
        else:
            self._console.print(f"{label}: {state}", soft_wrap=True, highlight=False)

    def _share(self, now: float, seen: Seen) -> float:
        by_time = (now - seen.start) / self._total_s if self._total_s else 0.0
        by_count = (seen.completed + seen.errors) / self._total_requests if self._total_requests else 0.0
        return min(1.0, max(by_time, by_count))

    def __enter__(self) -> "LoadProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def print_result(result: Result, runs: Sequence[ValidatedRun]) -> None:
    """A block for each run, with the findings against it."""
    console = Console(highlight=False, soft_wrap=True)
    for validated in runs:
        run = validated.run
        console.print(_times(run))
        console.print("  ".join(_rates(run)))
        for kind, count in run.errors.most_common():
            console.print(escape(f"{count} x {kind} {run.error_examples.get(kind, '')}"))
        for finding in validated.findings:
            console.print(escape(str(finding)), style="red" if finding.severity == "invalid" else "yellow")
        console.print()
    if best := result.best:
        highest = f"Highest rate with {ATTAINED:.0%} of the requests within the SLO, in two runs: {best.rate:g} requests/s"
        console.print(f"{highest} ({format_number(best.achieved_per_s)} answered); the knee is at {best.knee_per_s or 0:g}")
        if not is_valid_best(best, runs):
            console.print("That rests on an invalid run", style="red")


def _times(run: Run) -> Table:
    title = f"{run.load.label}: {run.completed} responses, {run.errors.total()} errors"
    title += f"; sent for {run.load_s:.1f} s, all over after {run.elapsed_s:.1f} s"
    columns = [Column(name, justify="right") for name in STATISTICS]
    table = Table("ms", *columns, title=title, title_justify="left", title_style="bold")
    for row in times_of(run):
        table.add_row(*row)
    return table


def _rates(run: Run) -> list[str]:
    names = {
        "sent/s": "sent_per_s",
        "answered/s": "requests_per_s",
        "output tok/s": "output_tok_per_s",
        "total tok/s": "total_tok_per_s",
        "within SLO/s": "goodput_per_s",
    }
    return [f"{title} {format_number(run.figures[name])}" for title, name in names.items() if run.figures[name] is not None]

"""How far a load is: a bar in a terminal, a line every five seconds in a log. On stderr; results are not for here."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.serving.load import Sender
from benchmarks.serving.tally import Tally

_LINE_S = 5.0
_BAR_S = 0.2


class LoadProgress:
    """Use as a context manager; `say` is called after each answer and does little."""

    def __init__(self, total_s: float | None, total_requests: int | None) -> None:
        self._console = Console(stderr=True)
        self._total_s, self._total_requests = total_s, total_requests
        self._next, self._label = 0.0, ""
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn(),
            console=self._console, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=1.0, state="")

    def say(self, label: str, sender: Sender, tally: Tally) -> None:
        now = time.perf_counter()
        if now < self._next and label == self._label:
            return
        terminal = self._console.is_terminal
        self._label, self._next = label, now + (_BAR_S if terminal else _LINE_S)
        rate = tally.output_tokens / max(now - tally.start, 1e-3)
        state = f"{tally.completed} answers, {tally.errors.total()} errors, {sender.in_flight} open, {rate:,.0f} tok/s"
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

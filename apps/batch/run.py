"""A batch from its input to its finished output."""

import argparse
import asyncio
import signal
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from apps.batch.lines import BatchRequest, answer_line, tokens_in
from apps.batch.output import Output
from apps.batch.sender import Error, Response, Sender
from apps.batch.source import Source, check, fetch
from apps.common.progress_line import Progress
from apps.common.settings import api_key

_SAVE_S = 10.0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Answer all requests that have no answer yet, and return the summary.

    Raises:
        UserError: the input is bad, the output is another's, or the key is wrong.
        OperationError: the server is away or full for too long, or the disk is full.
    """
    with TemporaryDirectory(prefix="rts-batch-") as folder:
        source = check(fetch(options.input, Path(folder)), options.model)
        output = Output(options.to, Path(folder), source.batch)
        finished = output.is_finished(source.count)
        if options.dry_run:
            output.read()
            return {"requests": source.count, "answered": source.count if finished else len(output.done)}
        if finished:
            output.remove_draft()  # left by a run that was killed at its end
            return {**output.summary(), "sent": 0, "duration_s": None, "output_tok_per_s": None, "retries": {}}
        output.open()
        before, began = len(output.done), time.monotonic()
        batch = _Run(options, source, output)
        try:
            asyncio.run(batch.send())
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            output.save()
        output.finish()
        duration_s = time.monotonic() - began
        rate = None if batch.tokens is None else batch.tokens / duration_s
        figures = {"duration_s": duration_s, "output_tok_per_s": rate, "retries": batch.retries}
        return {**output.summary(), "sent": source.count - before, **figures}


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


class _Run:
    """Sends what is not answered, keeps the answers, and shows how far it is. `tokens` are those of this run's answers."""

    def __init__(self, options: argparse.Namespace, source: Source, output: Output) -> None:
        self._options, self._source, self._output = options, source, output
        self.tokens: int | None = None
        self.retries: dict[str, int] = {}
        self._failed = 0

    async def send(self) -> None:
        options = self._options
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signal.raise_signal, signal.SIGINT)  # `ray job stop`
        limits = {"concurrency": options.concurrency, "timeout_s": options.timeout, "patience_s": options.patience}
        sender = Sender(options.url, api_key(), **limits)
        self.retries = sender.retries
        with Progress() as progress:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch(sender, progress))
                await sender.run(self._source.requests(self._output.done), self._keep)
                watch.cancel()

    def _keep(self, request: BatchRequest, response: Response, error: Error) -> None:
        self._output.add(request.number, answer_line(self._source.batch, request, response, error))
        self._failed += not (response and response["status_code"] == 200)
        if (tokens := tokens_in(response, "completion_tokens")) is not None:
            self.tokens = (self.tokens or 0) + tokens

    async def _watch(self, sender: Sender, progress: Progress) -> None:
        began = saved = time.monotonic()
        while True:
            await asyncio.sleep(progress.period_s)
            now = time.monotonic()
            done = f"{len(self._output.done)} of {self._source.count} answered, {self._failed} failed in this run"
            rate = f"{(self.tokens or 0) / (now - began):,.0f} tok/s"
            retries = ", ".join(f"{count} x {reason}" for reason, count in self.retries.items())
            progress.report(f"{done}; {sender.pace.open} open, {rate}" + (f"; tried again: {retries}" if retries else ""))
            if now - saved > _SAVE_S:
                saved = now
                await asyncio.to_thread(self._output.save)

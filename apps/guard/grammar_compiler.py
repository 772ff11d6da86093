"""Grammars are compiled in a process of their own, with bounds of time and memory, before the engine sees them.

The process starts with the first grammar. A grammar's result is remembered, so a repeated one costs nothing.
"""

import asyncio
import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Any

from apps.common.settings import inherited_environment
from apps.guard.answers import Refusal, bad_value
from apps.guard.grammars import find_grammars
from apps.guard.settings import Grammars

logger = logging.getLogger("ray.serve")
_AT_ONCE, _WAITING_PER_KEY, _REMEMBERED = 2, 4, 4096
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "HOME", "LANG", "TZ")
_START_S = 120.0  # to load the tokenizer, on a machine that loads a model meanwhile
_WALL_PER_CPU = 4  # what a busy machine may make of a second of CPU time
_REGEX_CPU_S = 4.0  # vLLM ends the compilation of a regular expression after 5 s, and the request with it
_STEP_S = 0.1


class GrammarCompiler:
    """The compiler of one guard. State belongs to one event loop."""

    def __init__(self, bounds: Grammars, tokenizer: str | None) -> None:
        self._bounds, self._tokenizer = bounds, tokenizer or ""
        self._results: OrderedDict[bytes, str | None] = OrderedDict()
        """Why a job was refused, by its digest; None if it was not."""
        self._running: dict[bytes, asyncio.Task[str | None]] = {}
        self._waiting = Counter[str]()
        self._key_locks: dict[str, asyncio.Lock] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._worker: _Worker | None = None
        self._starting = asyncio.Lock()

    async def check(self, fields: dict[str, Any], key: str) -> None:
        """Return when the engine may compile the grammars of a request; at once if it has none.

        Raises:
            Refusal: 400 for a grammar beyond the bounds, 429 if a key has too many compiled at once.
        """
        grammars = find_grammars(fields, self._bounds)
        if not grammars:
            return
        texts = [(grammar.kind, grammar.text) for grammar in grammars]
        digest = hashlib.sha256(json.dumps(texts).encode()).digest()
        if digest in self._results:
            self._results.move_to_end(digest)
            why = self._results[digest]
        else:
            why = await asyncio.shield(self._once(digest, texts, key))
        if why:
            params = ", ".join(dict.fromkeys(grammar.param for grammar in grammars))
            raise bad_value(f"{params} {why}.", grammars[0].param)

    def _once(self, digest: bytes, texts: Sequence[tuple[str, str]], key: str) -> "asyncio.Task[str | None]":
        """Compile a new grammar once for all requests that wait for it, also when the client of the first one leaves."""
        if digest in self._running:
            return self._running[digest]
        if self._waiting[key] >= _WAITING_PER_KEY:
            message = f"{_WAITING_PER_KEY} new grammars of this key are being compiled; try again when they are done."
            raise Refusal(429, message, "rate_limit_exceeded", kind="requests", headers={"retry-after": "5"})
        self._waiting[key] += 1
        task = self._running[digest] = asyncio.create_task(self._compile(digest, texts, key))

        def done(task: "asyncio.Task[str | None]") -> None:
            del self._running[digest]
            self._waiting -= Counter([key])  # which forgets it at 0
            if not self._waiting[key]:
                self._key_locks.pop(key, None)
            if not task.cancelled():
                task.exception()  # whoever waited for it has it; perhaps all have left

        task.add_done_callback(done)
        return task

    async def _compile(self, digest: bytes, texts: Sequence[tuple[str, str]], key: str) -> str | None:
        async with self._key_locks.setdefault(key, asyncio.Lock()), self._slots:
            why = await (await self._started()).run(self._job(texts))
        self._results[digest] = why
        if len(self._results) > _REMEMBERED:
            self._results.popitem(last=False)
        return why

    def _job(self, texts: Sequence[tuple[str, str]]) -> dict[str, Any]:
        cpu_s = self._bounds.compile_cpu_s
        return {
            "grammars": texts,
            "cpu_s": cpu_s,
            "deadline_s": cpu_s * _WALL_PER_CPU,
            "regex_s": _REGEX_CPU_S,
            "step_s": _STEP_S,
            "memory_bytes": self._bounds.memory_mib << 20,
        }

    async def _started(self) -> "_Worker":
        async with self._starting:
            if self._worker is None or self._worker.ended:
                self._worker = await _Worker.start(self._tokenizer)
            return self._worker


class _Worker:
    """The running process, and who waits for which of its answers."""

    def __init__(self, process: "subprocess.Popen[bytes]", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process, self._reader, self._writer = process, reader, writer
        self._answers: dict[int, asyncio.Future[str | None]] = {}
        self._jobs = 0
        self.ended = False
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, tokenizer: str) -> "_Worker":
        ours, theirs = socket.socketpair()
        inherited = inherited_environment()
        environment = {name: inherited[name] for name in _ENVIRONMENT if name in inherited}  # no secret of the replica
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TOKENIZERS_PARALLELISM": "false"}
        environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "apps.guard.grammar_worker", tokenizer]
        with theirs:
            process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=environment)
        ours.setblocking(False)
        return cls(process, *await asyncio.open_unix_connection(sock=ours))

    async def run(self, job: dict[str, Any]) -> str | None:
        """Why the job's grammars cannot be used; None if they can. Raises `Refusal` 503 if the process ends or hangs."""
        self._jobs += 1
        frame = json.dumps({"id": self._jobs, **job}).encode()
        answer = self._answers[self._jobs] = asyncio.get_running_loop().create_future()
        self._writer.write(len(frame).to_bytes(4, "big") + frame)
        try:
            async with asyncio.timeout(_START_S + job["deadline_s"]):
                return await answer
        except TimeoutError:
            self._listening.cancel()
            raise _unavailable() from None

    async def _listen(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(4)
                answer = json.loads(await self._reader.readexactly(int.from_bytes(head, "big")))
                waiting = self._answers.pop(answer["id"])
                if not waiting.done():
                    waiting.set_result(answer["error"])
        except (asyncio.IncompleteReadError, ConnectionError):
            logger.error("guard: the process that compiles grammars has exited unexpectedly")
        finally:  # also when the loop ends
            self.ended = True
            self._writer.close()
            self._process.kill()
            self._process.wait()
            for waiting in self._answers.values():
                if not waiting.done():
                    waiting.set_exception(_unavailable())


def _unavailable() -> Refusal:
    message = "The process that compiles grammars has ended; a new one starts with the next request."
    return Refusal(503, message, "grammar_compiler_unavailable", kind="server_error", headers={"retry-after": "5"})

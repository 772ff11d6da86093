"""The process that compiles what clients send, before the engine sees it: `python -m apps.guard.grammar_worker VOCABULARY`.

It loads xgrammar and the model's tokenizer once and forks for each job, so that a job which crashes, takes all memory or does
not end costs that job alone. Standard input is a socket: frames of JSON with their length before them, both ways.
"""

import gc
import json
import os
import re
import resource
import selectors
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import xgrammar
from transformers import AutoTokenizer

_STACK_BYTES = 2 << 20  # a fourth of what the engine's threads have: what recurses within it does so there
_STEPS, _STRIDE = 48, 7919  # tokens of an answer that is tried, chosen from all over the vocabulary
_TEXTS = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|\(=.*\)$')  # also what a rule looks ahead for, at its end
_REFERENCE = re.compile(r"(?<![\w{])([A-Za-z_][\w.-]*)(?:\{(\d+), -?\d+\})?")
_LOGGED_FROM = re.compile(r"\[[\d:]+\] \S+?:\d+: ")


@dataclass(eq=False)
class _Child:
    """A job in its fork. `reason` is why it refuses, empty if it does not."""

    job: dict[str, Any]
    pid: int
    deadline: float
    reason: bytearray = field(default_factory=bytearray)


class Worker:
    """A loop that takes jobs {id, grammars, cpu_s, deadline_s, step_s, memory_bytes} and answers {id, error}."""

    def __init__(self, connection: socket.socket, vocabulary: xgrammar.TokenizerInfo) -> None:
        self._connection, self._vocabulary = connection, vocabulary
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ)
        self._children: dict[int, _Child] = {}

    def run(self) -> None:
        """Serve until the other side closes the connection."""
        while True:
            for key, _ in self._selector.select(1.0 if self._children else None):
                if key.fileobj is not self._connection:
                    self._hear(key.fd)
                elif (job := _read_frame(self._connection)) is not None:
                    self._fork(job)
                else:
                    self._kill(float("inf"))
                    return
            self._kill(time.monotonic())

    def _kill(self, now: float) -> None:
        for child in self._children.values():
            if child.deadline < now:
                os.kill(child.pid, signal.SIGKILL)

    def _fork(self, job: dict[str, Any]) -> None:
        reads, writes = os.pipe()
        pid = os.fork()
        if pid == 0:
            _compile_and_exit(job, self._vocabulary, writes)
        os.close(writes)
        self._children[reads] = _Child(job, pid, time.monotonic() + job["deadline_s"])
        self._selector.register(reads, selectors.EVENT_READ)

    def _hear(self, pipe: int) -> None:
        child = self._children[pipe]
        if part := os.read(pipe, 65536):
            child.reason += part
            return
        self._selector.unregister(pipe)
        os.close(pipe)
        del self._children[pipe]
        _, status = os.waitpid(child.pid, 0)
        error = _reason(os.waitstatus_to_exitcode(status), child)
        frame = json.dumps({"id": child.job["id"], "error": error}).encode()
        self._connection.sendall(len(frame).to_bytes(4, "big") + frame)


def _reason(code: int, child: _Child) -> str | None:
    """Why the grammar cannot be used; None if it can."""
    if code == 0:
        return child.reason.decode(errors="replace") or None
    if -code in (signal.SIGPROF, signal.SIGKILL):
        return f"takes longer than {child.job['cpu_s']:g} s to compile"
    return "makes the compiler crash: it is nested or repeated too much"


def _compile_and_exit(job: dict[str, Any], vocabulary: xgrammar.TokenizerInfo, pipe: int) -> None:
    error = "needs too much memory to compile"
    try:
        _limit(job)
        error = _try(job, vocabulary) or ""
    except MemoryError:
        pass
    except Exception as failure:  # what a grammar library raises is of any type
        error = "does not compile: " + _LOGGED_FROM.sub("", str(failure)).strip()[:300]
    finally:
        try:
            os.write(pipe, error.encode(errors="replace"))
        finally:
            os._exit(0)


def _limit(job: dict[str, Any]) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # no way to the guard's socket; what the library says of a grammar is in no log
        os.dup2(nothing, descriptor)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_STACK, (_STACK_BYTES, _STACK_BYTES))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + job["memory_bytes"]
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    signal.setitimer(signal.ITIMER_PROF, job["cpu_s"])  # of all threads; ends the process
    os.nice(10)


def _try(job: dict[str, Any], vocabulary: xgrammar.TokenizerInfo) -> str | None:
    compiler = xgrammar.GrammarCompiler(vocabulary, max_threads=1, cache_enabled=False)
    for kind, text in job["grammars"]:
        began = time.process_time()
        compiled = _COMPILERS[kind](compiler, text)
        if kind == "regex" and time.process_time() - began > job["regex_s"]:
            return f"has a regular expression that takes longer than {job['regex_s']:g} s to compile"
        if rule := endless_rule(str(compiled.grammar)):
            return f"has a rule that no text can fulfil: {rule}"
        slowest = _slowest_step(compiled, vocabulary)
        if slowest is None:
            return "leads to where no text can go on"
        if slowest > job["step_s"]:
            return f"takes the engine longer than {job['step_s']:g} s for a token"
    return None


def endless_rule(grammar: str) -> str | None:
    """A rule that the root reaches and that never ends, as `b` in `b ::= b b`: an engine that comes to it fails the request.

    Args:
        grammar: as xgrammar prints it, in which a rule is a list of alternatives, each a plain sequence.
    """
    rules = dict(line.split(" ::= ", 1) for line in grammar.splitlines() if " ::= ((" in line)
    alternatives = {name: [_needed(part) for part in _TEXTS.sub("", body).split("|")] for name, body in rules.items()}
    ends: set[str] = set()
    while more := {
        name
        for name, parts in alternatives.items()
        if name not in ends and any(all(rule in ends or rule not in alternatives for rule in needed) for needed in parts)
    }:
        ends |= more
    reached, new = set[str](), {"root"} & alternatives.keys()
    while new:
        reached |= new
        new = {rule for name in new for needed in alternatives[name] for rule in needed if rule in alternatives} - reached
    return min(reached - ends, default=None)


def _needed(sequence: str) -> list[str]:
    """Rules that a sequence does not do without; `{0, ...}` is none of them."""
    return [rule for rule, least in _REFERENCE.findall(sequence) if least != "0"]


def _slowest_step(compiled: xgrammar.CompiledGrammar, vocabulary: xgrammar.TokenizerInfo) -> float | None:
    """CPU seconds of the slowest of some steps, in which the engine would do nothing for others; None for a dead end."""
    matcher = xgrammar.GrammarMatcher(compiled)
    mask = xgrammar.allocate_token_bitmask(1, vocabulary.vocab_size)
    slowest = 0.0
    for step in range(_STEPS):
        began = time.process_time()
        matcher.fill_next_token_bitmask(mask, 0)
        filled = time.process_time()
        allowed = numpy.flatnonzero(numpy.unpackbits(mask[0].numpy().view(numpy.uint8), bitorder="little"))
        if not len(allowed):
            return None
        chosen = int(allowed[step * _STRIDE % len(allowed)])
        accepted = time.process_time()
        goes_on = matcher.accept_token(chosen) and not matcher.is_terminated()
        slowest = max(slowest, filled - began + time.process_time() - accepted)
        if not goes_on:
            break
    return slowest


def _compile_tag(compiler: xgrammar.GrammarCompiler, text: str) -> xgrammar.CompiledGrammar:
    tag = json.loads(text)
    if "structures" not in tag:
        return compiler.compile_structural_tag(text)
    tags = [
        xgrammar.StructuralTagItem(begin=structure["begin"], schema=json.dumps(structure["schema"]), end=structure["end"])
        for structure in tag["structures"]
    ]
    return compiler.compile_structural_tag(tags, tag["triggers"])


_COMPILERS: dict[str, Any] = {
    "json": lambda compiler, text: compiler.compile_json_schema(text),
    "regex": lambda compiler, text: compiler.compile_regex(text),
    "grammar": lambda compiler, text: compiler.compile_grammar(text),
    "structural_tag": _compile_tag,
}


def _read_frame(connection: socket.socket) -> dict[str, Any] | None:
    head = connection.recv(4, socket.MSG_WAITALL)
    body = connection.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL) if len(head) == 4 else b""
    return json.loads(body) if body else None


def load_vocabulary(source: str) -> xgrammar.TokenizerInfo:
    """The vocabulary of the model in a directory; 256 bytes where there is none, as on a simulated engine."""
    if not (Path(source) / "tokenizer_config.json").exists():
        return xgrammar.TokenizerInfo([bytes([value]) for value in range(256)] + [b"</s>"], stop_token_ids=[256])
    return xgrammar.TokenizerInfo.from_huggingface(AutoTokenizer.from_pretrained(source, local_files_only=True))


if __name__ == "__main__":
    with socket.socket(fileno=0) as guard:
        worker = Worker(guard, load_vocabulary(sys.argv[1]))
        gc.collect()
        gc.freeze()  # forks share what is there
        worker.run()

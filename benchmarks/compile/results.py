"""Run the compiling process, and keep its results: a program is compiled again only where something has changed for it."""

import contextlib
import hashlib
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

from apps.common.errors import OperationError, UserError
from apps.common.progress_line import Progress
from apps.common.settings import cache_root, inherited_environment
from benchmarks.compile.environment import REQUIREMENTS, ROOT, VARIABLES, digest, ensure_environment
from benchmarks.compile.request import Request

_SOURCES = (*(Path(__file__).with_name(f"{name}.py") for name in ("described", "engine", "hlo")), REQUIREMENTS)
_SILENT_S = 900  # longest for one program; on 2 cores the largest known takes 130 s
_IDENTITY = ("name", "tokens", "sizes")


@dataclass
class Compiled:
    """What is known of a config: `engine` has the model's memory, `plan` all programs of a start, `programs` those compiled.

    `names` (with `*` for anything) and `tokens` (or `all`) select programs; an empty one is the default.
    """

    request: Request
    engine: dict[str, Any] = field(default_factory=dict)
    plan: list[dict[str, Any]] = field(default_factory=list)
    programs: list[dict[str, Any]] = field(default_factory=list)
    names: Sequence[str] = ()
    tokens: Sequence[str] = ()

    @property
    def fits(self) -> bool:
        """Whether no program is refused by the compiler."""
        return all(program["fits"] is not False for program in self.programs)

    @property
    def all_programs_s(self) -> float:
        """Seconds of compiling all programs of a start here, one after another: as those of the same name took on average."""
        took: dict[str, list[float]] = {}
        for program in self.programs:
            if "compile_s" in program:
                took.setdefault(program["name"], []).append(program["lower_s"] + program["compile_s"])
        return sum(sum(took[entry["name"]]) / len(took[entry["name"]]) for entry in self.plan if entry["name"] in took)

    def plain(self) -> dict[str, Any]:
        """The results for machines."""
        return {
            "model_id": self.request.model_id,
            "slice": f"{self.request.on.generation.name} {self.request.on.topology}",
            "layers": self.request.layers,
            "model_config_assumed": self.request.assumed,
            "programs_of_a_start": len(self.plan),
            "all_programs_s": round(self.all_programs_s),
            **self.engine,
            "fits": self.fits,
            "programs": self.programs,
        }

    def take(self, event: Mapping[str, Any]) -> None:
        """Add what the compiling process has written. Raises `UserError` where it refuses the config."""
        facts = {key: value for key, value in event.items() if key != "event"}
        match event["event"]:
            case "refused":
                fitting = " (`rts plan` has the layouts that fit)" if "do not fit" in event["message"] else ""
                raise UserError(f"the engine refuses this config: {event['message']}{fitting}")
            case "engine":
                self.engine = facts
            case "plan":
                self.plan = facts["programs"]
            case "program" | "failed":
                self.programs.append(facts)

    def missing(self) -> list[dict[str, Any]]:
        """Programs that are wanted and not compiled."""
        known = [_identity(program) for program in self.programs]
        return [entry for entry in self.plan if self.is_wanted(entry) and _identity(entry) not in known]

    def is_wanted(self, program: Mapping[str, Any]) -> bool:
        """Whether a program is selected; one that has no token buckets is so by its name alone."""
        named = not self.names or any(fnmatchcase(program["name"], name) for name in self.names)
        if program["tokens"] is None or "all" in self.tokens:
            return named
        return named and program["tokens"] in (set(map(int, self.tokens)) or self._default_tokens())

    def _default_tokens(self) -> set[int]:
        """The bucket that decodes with every sequence running, and the largest one."""
        buckets = sorted({entry["tokens"] for entry in self.plan if entry["tokens"]})
        running = self.request.engine_kwargs.get("max_num_seqs", 0)
        return {next((bucket for bucket in buckets if bucket >= running), buckets[-1]), buckets[-1]} if buckets else set()


def compile_programs(request: Request, names: Sequence[str], tokens: Sequence[str], jobs: int | None) -> Compiled:
    """Compile the programs with these names and token buckets, or take them from an earlier run.

    Raises:
        UserError: the engine refuses the config, or no program has such a name.
        OperationError: the environment cannot be installed, or the process failed.
    """
    compiled = Compiled(request, names=names, tokens=tokens)
    file = _file(request)
    for event in _stored(file):
        compiled.take(event)
    with Progress() as progress:
        if not compiled.plan or compiled.missing():
            python = ensure_environment(progress.report)
            progress.report("building the engine over described chips")
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a") as store:
                store.write("\n")  # ends a line that was cut off in the middle, so that the next one is whole
                for event in _events(python, compiled, jobs):
                    compiled.take(event)  # a refusal is not stored
                    store.write(json.dumps(event) + "\n")
                    store.flush()
                    if event["event"] in ("program", "failed"):
                        left = len(compiled.missing())
                        progress.report(f"{left} programs left, {event['name']} {event['tokens'] or ''} is done")
    compiled.programs = [program for program in compiled.programs if compiled.is_wanted(program)]
    if not compiled.programs:
        known = ", ".join(sorted({program["name"] for program in compiled.plan}))
        raise UserError(f"no program is called {' or '.join(names)} for these tokens: use one of {known}")
    return compiled


def _file(request: Request) -> Path:
    facts = [request.engine_kwargs, request.model_config, asdict(request.on), request.layers]
    key = json.dumps([facts, [digest(source) for source in _SOURCES]], sort_keys=True, default=str)
    return cache_root() / "compiler" / "engine" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.jsonl"


def _stored(file: Path) -> Iterator[dict[str, Any]]:
    """Events of earlier runs; a line that was cut off in the middle is left out."""
    lines = file.read_text().splitlines() if file.exists() else []
    for line in lines:
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def _identity(program: Mapping[str, Any]) -> dict[str, Any]:
    return {key: program[key] for key in _IDENTITY}


def _events(python: Path, compiled: Compiled, jobs: int | None) -> Iterator[dict[str, Any]]:
    """What the process writes. It asks which of its programs to compile, once it has listed them."""
    with (
        tempfile.TemporaryDirectory() as directory,
        tempfile.TemporaryFile("w+") as log,
        _process(python, log) as running,
    ):
        _send(running, {**compiled.request.plain(Path(directory)), "threads": jobs or len(os.sched_getaffinity(0))})
        while line := _receive(running):
            event = json.loads(line)
            yield event
            if event["event"] in ("done", "refused"):
                return  # the process has much to clear away, which nobody has to wait for
            if event["event"] == "plan":
                _send(running, [_identity(entry) for entry in compiled.missing()])
        log.seek(0)
        words = [line for line in log.read().splitlines() if line.strip()][-1:] or ["no output"]
        raise OperationError(f"the compiling process exited with {running.wait(10)}: {words[0][-500:]}")


@contextlib.contextmanager
def _process(python: Path, log: IO[str]) -> "Iterator[subprocess.Popen[str]]":
    """The process that compiles, killed at the end of the block."""
    running = subprocess.Popen(
        [str(python), "-m", "benchmarks.compile.engine"],
        cwd=ROOT,
        env={**inherited_environment(), **VARIABLES, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def _send(running: "subprocess.Popen[str]", content: Any) -> None:
    """Write a line of JSON. A process that has exited is noticed by its missing answer."""
    assert running.stdin
    with contextlib.suppress(BrokenPipeError):
        running.stdin.write(json.dumps(content) + "\n")
        running.stdin.flush()


def _receive(running: "subprocess.Popen[str]") -> str:
    """The next line; empty if the process has exited, or was killed as none came within the deadline."""
    assert running.stdout
    deadline = threading.Timer(_SILENT_S, running.kill)
    deadline.start()
    try:
        return running.stdout.readline()
    finally:
        deadline.cancel()

"""Run the compiling process, and keep its results: a program is compiled again only where something has changed for it."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from apps.common.errors import OperationError, UserError
from apps.common.progress_line import Progress
from apps.common.settings import cache_root
from benchmarks.compile.environment import REQUIREMENTS, VARIABLES, ensure_environment
from benchmarks.compile.process import digest, process, receive, send
from benchmarks.compile.request import Request

_SOURCES = (*(Path(__file__).with_name(f"{name}.py") for name in ("described", "engine", "hlo")), REQUIREMENTS)
_SILENT_S = 900  # longest for one program; on 2 cores the largest known takes 130 s
_IDENTITY = ("name", "tokens", "sizes")


@dataclass
class Compiled:
    """What is known of a config: `engine` has the model's memory, `plan` all programs of a start, `programs` those compiled."""

    request: Request
    engine: dict[str, Any] = field(default_factory=dict)
    plan: list[dict[str, Any]] = field(default_factory=list)
    programs: list[dict[str, Any]] = field(default_factory=list)
    seconds: float | None = None
    peak_memory_bytes: int | None = None

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
        config = {"model_id": self.request.model_id, "slice": f"{self.request.on.generation.name} {self.request.on.topology}"}
        more = {
            "layers": self.request.layers,
            "model_config_assumed": self.request.assumed,
            "programs_of_a_start": len(self.plan),
            "all_programs_s": round(self.all_programs_s),
        }
        return {**config, **more, **self.engine, "fits": self.fits, "programs": self.programs}


def compile_programs(request: Request, names: Sequence[str], tokens: Sequence[str], jobs: int | None) -> Compiled:
    """Compile the programs with these names and token buckets, or take them from an earlier run.

    Raises:
        UserError: the engine refuses the config, or no program has such a name.
        OperationError: the environment cannot be installed, or the process failed.
    """
    compiled = Compiled(request)
    file = _file(request)
    for event in _stored(file):
        _take(compiled, event)
    with Progress() as progress:
        if not compiled.plan or _missing(compiled, names, tokens):
            python = ensure_environment(progress.report)
            progress.report("building the engine over described chips")
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a") as store:
                store.write("\n")  # ends a line that was cut off in the middle, so that the next one is whole
                for event in _events(python, compiled, names, tokens, jobs):
                    _take(compiled, event)  # a refusal is not stored
                    store.write(json.dumps(event) + "\n")
                    store.flush()
                    if event["event"] in ("program", "failed"):
                        left = len(_missing(compiled, names, tokens))
                        progress.report(f"{left} programs left, {event['name']} {event['tokens'] or ''} is done")
    compiled.programs = [program for program in compiled.programs if _is_wanted(program, compiled, names, tokens)]
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


def _take(compiled: Compiled, event: Mapping[str, Any]) -> None:
    facts = {key: value for key, value in event.items() if key != "event"}
    match event["event"]:
        case "refused":
            fitting = " (`rts plan` has the layouts that fit)" if "do not fit" in event["message"] else ""
            raise UserError(f"the engine refuses this config: {event['message']}{fitting}")
        case "engine":
            compiled.engine = facts
        case "plan":
            compiled.plan = facts["programs"]
        case "program" | "failed":
            compiled.programs.append(facts)
        case "done":
            compiled.seconds, compiled.peak_memory_bytes = facts["seconds"], facts["peak_memory_bytes"]


def _missing(compiled: Compiled, names: Sequence[str], tokens: Sequence[str]) -> list[dict[str, Any]]:
    known = [_identity(program) for program in compiled.programs]
    return [entry for entry in compiled.plan if _is_wanted(entry, compiled, names, tokens) and _identity(entry) not in known]


def _identity(program: Mapping[str, Any]) -> dict[str, Any]:
    return {key: program[key] for key in _IDENTITY}


def _is_wanted(program: Mapping[str, Any], compiled: Compiled, names: Sequence[str], tokens: Sequence[str]) -> bool:
    named = not names or any(fnmatchcase(program["name"], name) for name in names)
    if program["tokens"] is None or "all" in tokens:
        return named
    return named and program["tokens"] in (set(map(int, tokens)) if tokens else _default_tokens(compiled))


def _default_tokens(compiled: Compiled) -> set[int]:
    """The bucket that decodes with every sequence running, and the largest one."""
    buckets = sorted({entry["tokens"] for entry in compiled.plan if entry["tokens"]})
    running = compiled.request.engine_kwargs.get("max_num_seqs", 0)
    return {next((bucket for bucket in buckets if bucket >= running), buckets[-1]), buckets[-1]} if buckets else set()


def _events(
    python: Path, compiled: Compiled, names: Sequence[str], tokens: Sequence[str], jobs: int | None
) -> Iterator[dict[str, Any]]:
    """What the process writes. It asks which of its programs to compile, once it has listed them."""
    with (
        tempfile.TemporaryDirectory() as directory,
        tempfile.TemporaryFile("w+") as log,
        process(python, "benchmarks.compile.engine", log, VARIABLES) as running,
    ):
        assert running.stdin
        asked = {**compiled.request.plain(Path(directory)), "threads": jobs or len(os.sched_getaffinity(0))}
        send(running.stdin, json.dumps(asked))
        while line := receive(running, _SILENT_S):
            event = json.loads(line)
            yield event
            if event["event"] in ("done", "refused"):
                return  # the process has much to clear away, which nobody has to wait for
            if event["event"] == "plan":
                send(running.stdin, json.dumps([_identity(entry) for entry in _missing(compiled, names, tokens)]))
        log.seek(0)
        words = [line for line in log.read().splitlines() if line.strip()][-1:] or ["no output"]
        raise OperationError(f"the compiling process exited with {running.wait(10)}: {words[0][-500:]}")

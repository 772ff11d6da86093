"""Starts servers whose timing is known (see known_server), for tests that must recover it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Timing:
    """Seconds, and which requests (every n-th one, 0 for none) go wrong and how."""

    ttft: float = 0.1
    tpot: float = 0.01
    error_every: int = 0
    """Answered with `error_status`."""
    error_status: int = 503
    drop_every: int = 0
    """The connection breaks after half of the tokens."""
    stall_every: int = 0
    stall: float = 0.0
    """Half of the tokens come `stall` seconds late."""
    miscount_every: int = 0
    """The usage reports one token less than came."""
    tokens_per_event: int = 1
    blank: float = 0.0
    """A blank comes first, at `ttft`, and the text so many seconds later."""
    reasoning: int = 0
    """Number of a chat's first events that are reasoning."""
    cached_percent: int = 0
    """Cached share of all prompts' tokens in /metrics; 0: no such route."""
    cached_usage_percent: int = -1
    """The same in each answer's usage; -1: not there."""
    withheld_percent: int = 0
    """Share of the tokens that the usage claims and that never come."""
    prompt_percent: int = 100
    """Prompt tokens that the usage claims, as a share of the real ones."""
    text: str = "word "


@dataclass(frozen=True)
class Running:
    """A server in a process of its own."""

    url: str
    pid: int

    def stats(self) -> dict[str, Any]:
        """What it did since the last call."""
        return dict(httpx.get(f"{self.url}/stats").json())


@contextmanager
def running(timing: Timing) -> Iterator[Running]:
    """The server for the block's time."""
    command = [sys.executable, "-m", "tests.benchmarks.known_server"]
    for name, value in asdict(timing).items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield Running(f"http://127.0.0.1:{int(process.stdout.readline())}", process.pid)
    finally:
        process.terminate()
        process.wait(10)

"""When requests are meant to be sent: seconds from the start, in order. Each pattern has the requested mean rate."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random

from apps.common.errors import UserError

PATTERNS = ("poisson", "constant", "bursts", "ramp")
_BURST = 16  # requests at the same instant
_RAMP_START = 0.1  # of the rate


def arrivals(pattern: str, rate: float, duration_s: float, seed: int) -> Iterator[float]:
    """Offsets below `duration_s` at `rate` per second on the average; of a ramp it is the rate at the end."""
    make = {"poisson": _poisson, "constant": _constant, "bursts": _bursts, "ramp": _ramp}[pattern]
    for offset in make(rate, duration_s, Random(seed)):  # noqa: S311 - not for secrets
        if offset >= duration_s:
            return
        yield offset


def from_trace(path: Path) -> list[float]:
    """Offsets from a file with one per line: seconds, or a JSON object with `timestamp` in seconds. The first becomes 0.

    Raises:
        UserError: the file is missing or empty, or a line is neither.
    """
    try:
        lines = path.read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--trace {path}: {error}") from error
    offsets = sorted(_offset(path, number, line) for number, line in enumerate(lines, 1) if line.strip())
    if not offsets:
        raise UserError(f"--trace {path}: no line in it: give one time in seconds per line")
    return [offset - offsets[0] for offset in offsets]


def _offset(path: Path, number: int, line: str) -> float:
    try:
        value = json.loads(line)
        return float(value["timestamp"] if isinstance(value, dict) else value)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}:{number}: {line.strip()[:60]!r} is not a time: give seconds, or {{'timestamp': seconds}}"
        ) from error


def _constant(rate: float, duration_s: float, random: Random) -> Iterator[float]:  # noqa: ARG001
    yield from (number / rate for number in count())


def _poisson(rate: float, duration_s: float, random: Random) -> Iterator[float]:  # noqa: ARG001
    now = 0.0
    while True:
        now += random.expovariate(rate)
        yield now


def _bursts(rate: float, duration_s: float, random: Random) -> Iterator[float]:
    """Groups at the same instant; the groups come at random."""
    for start in _poisson(rate / _BURST, duration_s, random):
        yield from [start] * _BURST


def _ramp(rate: float, duration_s: float, random: Random) -> Iterator[float]:
    """A Poisson process whose rate grows evenly to `rate` at the end: thinned out from one at the full rate."""
    for now in _poisson(rate, duration_s, random):
        if random.random() < _RAMP_START + (1 - _RAMP_START) * now / duration_s:
            yield now

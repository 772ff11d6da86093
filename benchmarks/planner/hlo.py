"""Count the collectives of a step in the text (HLO) of the compiled program."""

import re
from collections import Counter
from dataclasses import dataclass, field

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_COLLECTIVE = re.compile(rf" = .*? ({'|'.join(KINDS)})(?:-start)?\(")
_LOOP = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_CALL = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
_LIMIT = re.compile(r" = s32\[\]\S* constant\((\d+)\)")


@dataclass
class _Computation:
    """One function of the program: what it does itself, what it calls, the loops that it runs."""

    collectives: Counter[str] = field(default_factory=Counter)
    calls: list[str] = field(default_factory=list)
    loops: list[tuple[str, str]] = field(default_factory=list)
    """Condition and body of each."""
    limits: list[int] = field(default_factory=list)
    """Numbers in it; a loop's condition has one, what its counter is compared with."""


def collectives(text: str) -> dict[str, int]:
    """How often each kind runs in one execution; what is in a loop counts as often as the loop runs.

    Loops count from 0, as those of `jax.lax.scan` do. One whose condition is not a comparison with a number counts once.
    """
    computations: dict[str, _Computation] = {}
    entry, current = "", _Computation()
    for line in text.splitlines():
        if not line.startswith(" ") and (header := _COMPUTATION.match(line)):
            current = computations[header[1]] = _Computation()
            entry = header[1] if line.startswith("ENTRY") else entry
        current.collectives.update(_COLLECTIVE.findall(line))
        current.limits += [int(number) for number in _LIMIT.findall(line)]
        if loop := _LOOP.search(line):
            current.loops.append((loop[1], loop[2]))
        else:
            current.calls += _CALL.findall(line)
    total = _total(entry, computations)
    return {kind: total[kind] for kind in KINDS}


def _total(name: str, computations: dict[str, _Computation]) -> Counter[str]:
    own = computations.get(name, _Computation())
    total = Counter(own.collectives)
    for callee in own.calls:
        total.update(_total(callee, computations))
    for condition, body in own.loops:
        limits = computations.get(condition, _Computation()).limits
        times = limits[0] if len(limits) == 1 else 1
        total.update({kind: count * times for kind, count in _total(body, computations).items()})
    return total

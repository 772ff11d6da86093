"""What the text of a compiled program, and the compiler's errors, say."""

import re
from typing import Any

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_COLLECTIVE = re.compile(rf"= (.+?) ({'|'.join(COLLECTIVES)})(?:-start)?\(")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_TOO_LARGE = re.compile(r"total memory required for HLO temporaries \(([\d.]+)([MGT])\)")
_UNITS = {"M": 2**20, "G": 2**30, "T": 2**40}


def collectives(text: str) -> dict[str, dict[str, int]]:
    """How many of each kind are in a program's text, and the bytes of their results."""
    totals = {kind: {"count": 0, "bytes": 0} for kind in COLLECTIVES}
    for shape, kind in _COLLECTIVE.findall(text):
        arrays = _ARRAY.findall(shape)
        largest = max((_bytes_of(dtype, sizes) for dtype, sizes in arrays), default=0)  # a `-start` has its operand beside it
        totals[kind] = {"count": totals[kind]["count"] + 1, "bytes": totals[kind]["bytes"] + largest}
    return totals


def _bytes_of(dtype: str, sizes: str) -> int:
    total = _ITEM_BYTES.get(dtype, 0)
    for size in sizes.split(",") if sizes else ():
        total *= int(size)
    return total


def failure(error: Exception) -> dict[str, Any]:
    """The compiler's own words, and the bytes that a program would take where that was the reason."""
    message = str(error).strip() or type(error).__name__
    refused = _TOO_LARGE.search(message)
    needed = int(float(refused[1]) * _UNITS[refused[2]]) if refused else None
    return {"fits": False, "needed_bytes": needed, "message": message.splitlines()[0][:500]}

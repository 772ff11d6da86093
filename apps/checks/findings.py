"""What a check has found: where, what is wrong and why, what is allowed."""

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

Path = tuple[str | int, ...]
"""Keys and list positions from the top of a config."""


@dataclass(frozen=True)
class Finding:
    """`value` is what stands there, `allowed` what may; both are None where that says nothing."""

    path: Path
    message: str
    severity: Literal["error", "warning"] = "error"
    value: Any = None
    allowed: str | None = None
    did_you_mean: str | None = None

    @property
    def where(self) -> str:
        """For example `applications[0].args.api_url`."""
        return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path).lstrip(".") or "the file"

    def __str__(self) -> str:
        more = [f"allowed: {self.allowed}"] if self.allowed else []
        more += [f"did you mean {self.did_you_mean}?"] if self.did_you_mean else []
        return f"{self.where}: {self.message}" + (f" ({'; '.join(more)})" if more else "")


def below(path: Path, findings: Iterable[Finding]) -> list[Finding]:
    """The findings of a part, with the part's own path before theirs."""
    return [
        Finding((*path, *found.path), found.message, found.severity, found.value, found.allowed, found.did_you_mean)
        for found in findings
    ]


def unknown_key(path: Path, key: str, known: Collection[str], why: str) -> Finding:
    """A key that nobody reads. The full list is said only where it is short."""
    allowed = ", ".join(sorted(known)) if len(known) <= 20 else None
    return Finding((*path, key), f"unknown key {key!r}: {why}", allowed=allowed, did_you_mean=closest(key, known))


def closest(word: object, known: Collection[str]) -> str | None:
    """The known word that is meant, if one is near; upper and lower case are the same here."""
    lowered = {one.lower(): one for one in known}
    found = difflib.get_close_matches(str(word).lower(), lowered, n=1)
    return lowered[found[0]] if found else None

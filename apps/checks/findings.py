"""A finding of a check: where, what is wrong and why, what is allowed."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Path = tuple[str | int, ...]
"""Keys and list positions from the top of a config."""


@dataclass(frozen=True)
class Finding:
    """`value` is what stands there, `allowed` what may stand there; both are None where that does not help."""

    path: Path
    message: str
    severity: Literal["error", "warning"] = "error"
    value: Any = None
    allowed: str | None = None
    did_you_mean: str | None = None

    @property
    def where(self) -> str:
        """The path as text, such as `applications[0].args.api_url`."""
        return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path).lstrip(".") or "the file"

    def __str__(self) -> str:
        more = [f"allowed: {self.allowed}"] if self.allowed else []
        more += [f"did you mean {self.did_you_mean}?"] if self.did_you_mean else []
        return f"{self.where}: {self.message}" + (f" ({'; '.join(more)})" if more else "")


def below(path: Path, findings: Iterable[Finding]) -> list[Finding]:
    """The findings of a part, with the part's own path before theirs."""
    return [replace(finding, path=(*path, *finding.path)) for finding in findings]


def mapping(value: Any) -> Mapping[str, Any]:
    """A part of a config that should be a mapping; empty where it is anything else, which the schemas report."""
    return value if isinstance(value, Mapping) else {}


def unknown_key(path: Path, key: str, known: Collection[str], why: str) -> Finding:
    """A key that nobody reads. The full list of known keys is given only where it is short."""
    allowed = ", ".join(sorted(known)) if len(known) <= 20 else None
    return Finding((*path, key), f"unknown key {key!r}: {why}", allowed=allowed, did_you_mean=closest(key, known))


def closest(word: object, known: Collection[str]) -> str | None:
    """The known word that is probably meant, if one is close; case does not matter."""
    lowered = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(str(word).lower(), lowered, n=1)
    return lowered[matches[0]] if matches else None

"""What one field of a request may be: a rule for each kind of value, which raises `Refusal` 400 for all else.

Numbers that are none to others, such as 1e999, `json_body` has refused before, at any depth.

Values are taken only in the types that OpenAI's API has: a server that also takes "8" for a number must not be asked more
that way.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from apps.guard.answers import Refusal, bad_value
from apps.guard.settings import Bounds

MOST = 2**31 - 1  # more no engine computes, and larger numbers fail in places where nobody expects them
_TEXT = 1024


class Rule(Protocol):
    """Of one field. null is never asked about: it is as good as no field."""

    def check(self, value: Any, name: str, bounds: Bounds) -> None: ...


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        if not isinstance(value, bool):
            raise bad_value(f"{name} must be true or false.", name)


@dataclass(frozen=True)
class Integer:
    """`most` is a number, or the name of one of the `Bounds`."""

    least: int = 0
    most: int | str = MOST

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        if type(value) is not int:  # bool is an int to Python
            raise bad_value(f"{name} must be an integer.", name)
        most = _bound(self.most, bounds)
        if not self.least <= value <= most:
            raise bad_value(f"{name} must be between {self.least} and {most}, not {value}.", name)


@dataclass(frozen=True)
class Number:
    """With or without a fraction."""

    least: float
    most: float

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        if type(value) not in (int, float):
            raise bad_value(f"{name} must be a number.", name)
        if not self.least <= value <= self.most:
            raise bad_value(f"{name} must be between {self.least:g} and {self.most:g}.", name)


@dataclass(frozen=True)
class Text:
    """A string; without `most` it is bounded by the body alone, such as a prompt."""

    most: int | None = _TEXT

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        if not isinstance(value, str):
            raise bad_value(f"{name} must be a string.", name)
        if self.most is not None and len(value) > self.most:
            raise bad_value(f"{name} may have at most {self.most} characters.", name)


@dataclass(frozen=True)
class OneOf:
    """One of a few words."""

    words: tuple[str, ...]

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        if not isinstance(value, str) or value not in self.words:
            raise bad_value(f"{name} must be one of {', '.join(self.words)}.", name)


@dataclass(frozen=True)
class Strings:
    """A string, or a list of them."""

    most: int | str

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        strings = [value] if isinstance(value, str) else value
        if not isinstance(strings, list) or not all(isinstance(one, str) for one in strings):
            raise bad_value(f"{name} must be a string or a list of strings.", name)
        most = _bound(self.most, bounds)
        if len(strings) > most or any(len(one) > _TEXT for one in strings):
            raise bad_value(f"{name} may have at most {most} strings of at most {_TEXT} characters.", name)


@dataclass(frozen=True)
class TokenIds:
    """A list of tokens; without `most` it is bounded by the body alone."""

    most: int | str | None = None

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        if not isinstance(value, list) or not _are_token_ids(value):
            raise bad_value(f"{name} must be a list of token ids: integers between 0 and {MOST}.", name)
        if self.most is not None and len(value) > (most := _bound(self.most, bounds)):
            raise bad_value(f"{name} may have at most {most} token ids.", name)


@dataclass(frozen=True)
class Prompt:
    """Of /v1/completions: a string or token ids, or a list of either; `choices` bounds how many."""

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        if isinstance(value, str) or (isinstance(value, list) and _are_token_ids(value)):
            return
        many = isinstance(value, list) and (
            all(isinstance(one, str) for one in value) or all(isinstance(one, list) and _are_token_ids(one) for one in value)
        )
        if not many:
            raise bad_value(f"{name} must be a string, a list of token ids (up to {MOST}), or a list of either.", name)


@dataclass(frozen=True)
class Entries:
    """An object whose names are the client's own choice."""

    most: int
    rule: Rule

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        _check_object(value, name)
        if len(value) > self.most or any(len(key) > _TEXT for key in value):
            raise bad_value(f"{name} may have at most {self.most} entries, with names of at most {_TEXT} characters.", name)
        for key, one in value.items():
            if one is not None:
                self.rule.check(one, f"{name}.{key[:40]}", bounds)


@dataclass(frozen=True)
class Scalar:
    """A string, a number or a truth, of no great size."""

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        if isinstance(value, dict | list) or (isinstance(value, str) and len(value) > _TEXT):
            raise bad_value(f"{name} must be a number, true, false, or a string of at most {_TEXT} characters.", name)


@dataclass(frozen=True)
class Fields:
    """An object with fields of its own, each by its rule."""

    table: Mapping[str, Rule] = field(hash=False)

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        _check_object(value, name)
        check_fields(value, self.table, bounds, f"{name}.")


@dataclass(frozen=True)
class Elsewhere:
    """Of one of these types; what is in it is bounded in another module, which `where` names."""

    types: tuple[type, ...]
    where: str

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        if not isinstance(value, self.types):
            raise bad_value(f"{name} must be {' or '.join(_WORDS[one] for one in self.types)}.", name)


@dataclass(frozen=True)
class Unused:
    """OpenAI's own, which the engine has no use for: clients may send it, in a reasonable size."""

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        if sum(len(one) if isinstance(one, str) else 1 for one in _leaves(value)) > _TEXT:
            raise bad_value(f"{name} is too large: this server has no use for it, leave it out.", name)


@dataclass(frozen=True)
class Closed:
    """Never taken from a client. `neutral`: what says nothing."""

    why: str
    neutral: tuple[Any, ...] = ({}, [])

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        if value not in self.neutral:
            raise bad_value(f"{name} is not for clients to set: {self.why}.", name)


def check_fields(fields: Mapping[str, Any], table: Mapping[str, Rule], bounds: Bounds, path: str = "") -> None:
    """Raise `Refusal` 400 for the first field that its rule refuses, or that has none."""
    for name, value in fields.items():
        rule = table.get(name)
        if rule is None:
            raise _unknown(path, name, table)
        if value is not None:
            rule.check(value, f"{path}{name}", bounds)


_WORDS: dict[type, str] = {str: "a string", dict: "an object", list: "a list"}


def _unknown(path: str, name: str, table: Mapping[str, Rule]) -> Refusal:
    shown = f"{path}{name[:80]}"
    close = difflib.get_close_matches(name[:80], table, n=1)
    hint = f" Did you mean {path}{close[0]}?" if close else " Leave it out."
    return Refusal(400, f"{shown} is no field that this server knows.{hint}", "unknown_parameter", param=shown)


def _check_object(value: Any, name: str) -> None:
    if not isinstance(value, dict):
        raise bad_value(f"{name} must be an object.", name)


def _bound(most: int | str, bounds: Bounds) -> int:
    return getattr(bounds, most) if isinstance(most, str) else most


def _are_token_ids(values: list[Any]) -> bool:
    """Whether they are all integers that an engine could take. A prompt may have 100,000."""
    return not values or (set(map(type, values)) == {int} and min(values) >= 0 and max(values) <= MOST)


def _leaves(value: Any) -> Iterator[Any]:
    """All that is no list and no object, at any depth; the names in objects too."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
        else:
            yield one

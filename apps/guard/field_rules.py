"""What one field of a request may be: a rule for each kind of value, which raises `Refusal` 400 for all else.

Numbers that are none to others, such as 1e999, `bodies` has refused before, at any depth.

Values are taken only in the types that OpenAI's API has: a server that also takes "8" for a number must not be asked more
that way.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from apps.guard.answers import Refusal, bad_value
from apps.guard.settings import Bounds

MAX = 2**31 - 1  # no engine computes more, and larger numbers fail in places where nobody expects them
_TEXT = 1024


class Rule(Protocol):
    """A rule for one field. null never reaches it: it counts as no field."""

    def check(self, value: Any, name: str, bounds: Bounds) -> None: ...


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        if not isinstance(value, bool):
            raise bad_value(f"{name} must be true or false.", name)


@dataclass(frozen=True)
class Integer:
    """`maximum` is a number, or the name of one of the `Bounds`."""

    minimum: int = 0
    maximum: int | str = MAX

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        if type(value) is not int:  # bool is an int to Python
            raise bad_value(f"{name} must be an integer.", name)
        maximum = _bound(self.maximum, bounds)
        if not self.minimum <= value <= maximum:
            raise bad_value(f"{name} must be between {self.minimum} and {maximum}, not {value}.", name)


@dataclass(frozen=True)
class Number:
    """A number, with or without a fraction."""

    minimum: float
    maximum: float

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        if type(value) not in (int, float):
            raise bad_value(f"{name} must be a number.", name)
        if not self.minimum <= value <= self.maximum:
            raise bad_value(f"{name} must be between {self.minimum:g} and {self.maximum:g}.", name)


@dataclass(frozen=True)
class Text:
    """A string; without `maximum` it is bounded by the body alone, such as a prompt."""

    maximum: int | None = _TEXT

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        if not isinstance(value, str):
            raise bad_value(f"{name} must be a string.", name)
        if self.maximum is not None and len(value) > self.maximum:
            raise bad_value(f"{name} may have at most {self.maximum} characters.", name)


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

    maximum: int | str

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        strings = [value] if isinstance(value, str) else value
        if not isinstance(strings, list) or not all(isinstance(text, str) for text in strings):
            raise bad_value(f"{name} must be a string or a list of strings.", name)
        maximum = _bound(self.maximum, bounds)
        if len(strings) > maximum or any(len(text) > _TEXT for text in strings):
            raise bad_value(f"{name} may have at most {maximum} strings of at most {_TEXT} characters.", name)


@dataclass(frozen=True)
class TokenIds:
    """A list of tokens; without `maximum` it is bounded by the body alone."""

    maximum: int | str | None = None

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        if not isinstance(value, list) or not _are_token_ids(value):
            raise bad_value(f"{name} must be a list of token ids: integers between 0 and {MAX}.", name)
        if self.maximum is not None and len(value) > (maximum := _bound(self.maximum, bounds)):
            raise bad_value(f"{name} may have at most {maximum} token ids.", name)


@dataclass(frozen=True)
class Prompt:
    """The prompt of /v1/completions: a string or token ids, or a list of either; `choices` bounds how many."""

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        if isinstance(value, str) or (isinstance(value, list) and _are_token_ids(value)):
            return
        many = isinstance(value, list) and (
            all(isinstance(text, str) for text in value) or all(isinstance(ids, list) and _are_token_ids(ids) for ids in value)
        )
        if not many:
            raise bad_value(f"{name} must be a string, a list of token ids (up to {MAX}), or a list of either.", name)


@dataclass(frozen=True)
class Entries:
    """An object whose names are the client's own choice."""

    maximum: int
    rule: Rule

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        _check_object(value, name)
        if len(value) > self.maximum or any(len(key) > _TEXT for key in value):
            raise bad_value(f"{name} may have at most {self.maximum} entries, with names of at most {_TEXT} characters.", name)
        for key, entry in value.items():
            if entry is not None:
                self.rule.check(entry, f"{name}.{key[:40]}", bounds)


@dataclass(frozen=True)
class Scalar:
    """A string, a number or a boolean, of no great size."""

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
    """A value of one of these types; what is in it is bounded in another module, which `where` names."""

    types: tuple[type, ...]
    where: str

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        if not isinstance(value, self.types):
            raise bad_value(f"{name} must be {' or '.join(_WORDS[kind] for kind in self.types)}.", name)


@dataclass(frozen=True)
class Unused:
    """A field of OpenAI's own, which the engine has no use for: clients may send it, in a reasonable size."""

    def check(self, value: Any, name: str, bounds: Bounds) -> None:
        if sum(len(leaf) if isinstance(leaf, str) else 1 for leaf in _leaves(value)) > _TEXT:
            raise bad_value(f"{name} is too large: this server has no use for it; leave it out.", name)


@dataclass(frozen=True)
class Closed:
    """A field that is never taken from a client. `neutral`: values that ask for nothing."""

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
    return Refusal(400, f"{shown} is not a field that this server knows.{hint}", "unknown_parameter", param=shown)


def _check_object(value: Any, name: str) -> None:
    if not isinstance(value, dict):
        raise bad_value(f"{name} must be an object.", name)


def _bound(maximum: int | str, bounds: Bounds) -> int:
    return getattr(bounds, maximum) if isinstance(maximum, str) else maximum


def _are_token_ids(values: list[Any]) -> bool:
    """Whether they are all integers that an engine could take. A prompt may have 100,000."""
    return not values or (set(map(type, values)) == {int} and min(values) >= 0 and max(values) <= MAX)


def _leaves(value: Any) -> Iterator[Any]:
    """All that is no list and no object, at any depth; the names in objects too."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        else:
            yield value

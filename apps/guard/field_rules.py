"""What one field of a request may be: a rule for each kind of value; all else is refused.

Numbers that are none to others, such as 1e999, `bodies` has refused before, at any depth.

Values are taken only in the types that OpenAI's API has: a server that also takes "8" for a number must not be asked more
that way.
"""

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from apps.guard.answers import Refusal, bad_value
from apps.guard.settings import Bounds

MAX = 2**31 - 1  # no engine computes more, and larger numbers fail in places where nobody expects them
_TEXT = 1024
_WORDS: dict[type, str] = {str: "a string", dict: "an object", list: "a list"}


@dataclass(frozen=True)
class Rule:
    """A rule for one field. null never reaches it: it counts as no field."""

    accepts: Callable[[Any, Bounds], bool]
    otherwise: str
    """What any other value is told; `{logprobs}` stands for one of the `Bounds`, `{value}` for that value."""
    is_unbounded: bool = False
    """The body alone bounds its size, or another module does."""
    fields: "Mapping[str, Rule] | None" = None
    """Rules for an object's own fields."""
    entry: "Rule | None" = None
    """The rule for each entry of an object whose names are the client's own choice."""


def check_fields(fields: Mapping[str, Any], table: Mapping[str, Rule], bounds: Bounds, path: str = "") -> None:
    """Raise `Refusal` 400 for the first field that its rule refuses, or that has none."""
    for name, value in fields.items():
        rule = table.get(name)
        if rule is None:
            raise _unknown(path, name, table)
        _check(value, rule, f"{path}{name}", bounds)


def _check(value: Any, rule: Rule, name: str, bounds: Bounds) -> None:
    if value is None:
        return
    if not rule.accepts(value, bounds):
        raise bad_value(f"{name} {rule.otherwise.format(**vars(bounds), value=_brief(value))}.", name)
    if rule.fields is not None:
        check_fields(value, rule.fields, bounds, f"{name}.")
    if rule.entry is not None:
        for key, entry in value.items():
            _check(entry, rule.entry, f"{name}.{key[:40]}", bounds)


def _brief(value: Any) -> str:
    """The value as JSON, of a long text only the start."""
    return (
        _WORDS[type(value)] if isinstance(value, dict | list) else json.dumps(value[:40] if isinstance(value, str) else value)
    )


def _unknown(path: str, name: str, table: Mapping[str, Rule]) -> Refusal:
    shown = f"{path}{name[:80]}"
    close = difflib.get_close_matches(name[:80], table, n=1)
    hint = f" Did you mean {path}{close[0]}?" if close else " Leave it out."
    return Refusal(400, f"{shown} is not a field that this server knows.{hint}", "unknown_parameter", param=shown)


def integer(minimum: int = 0, maximum: int | str = MAX) -> Rule:
    """An integer up to `maximum`: a number, or the name of one of the `Bounds`."""

    def accepts(value: Any, bounds: Bounds) -> bool:
        return type(value) is int and minimum <= value <= _bound(maximum, bounds)  # bool is an int to Python

    return Rule(accepts, f"must be an integer between {minimum} and {_shown(maximum)}, not {{value}}")


def number(minimum: float, maximum: float) -> Rule:
    """A number, with or without a fraction."""
    return Rule(
        lambda value, _: type(value) in (int, float) and minimum <= value <= maximum,
        f"must be a number between {minimum:g} and {maximum:g}, not {{value}}",
    )


def text(maximum: int | None = _TEXT) -> Rule:
    """A string; without `maximum` it is bounded by the body alone, such as a prompt."""
    if maximum is None:
        return elsewhere(str)
    return Rule(
        lambda value, _: isinstance(value, str) and len(value) <= maximum, f"must be a string of at most {maximum} characters"
    )


def one_of(*words: str) -> Rule:
    """One of a few words."""
    return Rule(lambda value, _: isinstance(value, str) and value in words, f"must be one of {', '.join(words)}")


def strings(maximum: str) -> Rule:
    """A string, or a list of them, at most as many as one of the `Bounds`."""

    def accepts(value: Any, bounds: Bounds) -> bool:
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or len(texts) > _bound(maximum, bounds):
            return False
        return all(isinstance(text, str) and len(text) <= _TEXT for text in texts)

    return Rule(
        accepts, f"must be a string or a list of strings: at most {_shown(maximum)} strings of at most {_TEXT} characters"
    )


def token_ids(maximum: int | None = None) -> Rule:
    """A list of tokens; without `maximum` it is bounded by the body alone."""
    count = "" if maximum is None else f"at most {maximum} "
    return Rule(
        lambda value, _: _are_token_ids(value) and (maximum is None or len(value) <= maximum),
        f"must be a list of {count}token ids: integers between 0 and {MAX}",
        is_unbounded=maximum is None,
    )


def entries(maximum: int, rule: Rule) -> Rule:
    """An object whose names are the client's own choice."""
    return Rule(
        lambda value, _: isinstance(value, dict) and len(value) <= maximum and all(len(key) <= _TEXT for key in value),
        f"must be an object of at most {maximum} entries, with names of at most {_TEXT} characters",
        entry=rule,
    )


def fields(table: Mapping[str, Rule]) -> Rule:
    """An object with fields of its own, each by its rule."""
    return Rule(lambda value, _: isinstance(value, dict), "must be an object", fields=table)


def elsewhere(*types: type) -> Rule:
    """A value of one of these types; what is in it is bounded in another module."""
    words = " or ".join(_WORDS[kind] for kind in types)
    return Rule(lambda value, _: isinstance(value, types), f"must be {words}", is_unbounded=True)


def closed(why: str, neutral: tuple[Any, ...] = ({}, [])) -> Rule:
    """A field that is never taken from a client. `neutral`: values that ask for nothing."""
    return Rule(lambda value, _: value in neutral, f"is not for clients to set: {why}")


def _bound(maximum: int | str, bounds: Bounds) -> int:
    return getattr(bounds, maximum) if isinstance(maximum, str) else maximum


def _shown(maximum: int | str) -> str:
    return f"{{{maximum}}}" if isinstance(maximum, str) else str(maximum)


def _are_token_ids(value: Any) -> bool:
    """Whether it is a list of integers that an engine could take. A prompt may have 100,000."""
    return isinstance(value, list) and (not value or (set(map(type, value)) == {int} and min(value) >= 0 and max(value) <= MAX))


def _is_prompt(value: Any) -> bool:
    if isinstance(value, str) or _are_token_ids(value):
        return True
    return isinstance(value, list) and (all(isinstance(text, str) for text in value) or all(map(_are_token_ids, value)))


def _is_small(value: Any) -> bool:
    return sum(len(leaf) if isinstance(leaf, str) else 1 for leaf in _leaves(value)) <= _TEXT


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


FLAG = Rule(lambda value, _: isinstance(value, bool), "must be true or false")
SCALAR = Rule(
    lambda value, _: not isinstance(value, dict | list) and not (isinstance(value, str) and len(value) > _TEXT),
    f"must be a number, true, false, or a string of at most {_TEXT} characters",
)
PROMPT = Rule(
    lambda value, _: _is_prompt(value),
    f"must be a string, a list of token ids (up to {MAX}), or a list of either",
    is_unbounded=True,
)
"""The prompt of /v1/completions; `choices` bounds how many."""
UNUSED = Rule(lambda value, _: _is_small(value), "is too large: this server has no use for it; leave it out")
"""A field of OpenAI's own, which the engine has no use for: clients may send it, in a reasonable size."""

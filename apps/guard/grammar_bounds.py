"""How large, how deep and how repetitive a JSON schema, a pattern or a grammar may be before anything compiles it.

What grammar libraries do with the rest is found out in a process of its own (see `grammar_compiler`).
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from apps.guard.answers import bad_value
from apps.guard.settings import Grammars

_REPETITION = re.compile(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}")
_COUNTS = tuple(f"{end}{what}" for end in ("min", "max") for what in ("Length", "Items", "Properties", "Contains", ""))
_SAME_PLACE = ("allOf", "anyOf", "oneOf")
"""Keywords whose schemas describe the very value that their owner describes, as `$ref` does."""
_TAG_SCHEMAS = ("json_schema", "schema")


def parse_object(text: str, param: str, bounds: Grammars) -> dict[str, Any]:
    """The JSON object in a string that a client sent. Raises `Refusal` 400."""
    check_size(len(text), param, bounds)
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        raise bad_value(f"{param} must be a JSON object, or a string that holds one as valid JSON.", param) from None
    if not isinstance(parsed, dict):
        raise bad_value(f"{param} must be a JSON object.", param)
    return parsed


def check_size(size: int, param: str, bounds: Grammars) -> None:
    if size > bounds.total_bytes:
        raise bad_value(f"{param} has {size} bytes; at most {bounds.total_bytes} are compiled.", param)


def check_schema(schema: dict[str, Any], param: str, bounds: Grammars) -> None:
    """Raise `Refusal` 400 for a JSON schema beyond the bounds, or with references that lead nowhere."""
    _check_nodes(list(_walk(schema, param, bounds)), param, bounds)
    _References(schema, param, bounds).check()


def check_tag(tag: dict[str, Any], param: str, bounds: Grammars) -> None:
    """Raise `Refusal` 400 for a structural tag beyond the bounds; each schema in it is a root of its own."""
    _check_nodes(list(_walk(tag, param, bounds)), param, bounds)
    for node in _walk(tag, param, bounds, leave_out=_TAG_SCHEMAS):
        for name in _TAG_SCHEMAS:
            if isinstance(node.get(name), dict):
                _References(node[name], param, bounds).check()


def check_pattern(pattern: str, param: str, bounds: Grammars) -> None:
    """Raise `Refusal` 400 for a regular expression beyond the bounds."""
    if len(pattern) > bounds.pattern_chars:
        raise bad_value(
            f"{param} has a pattern of {len(pattern)} characters; at most {bounds.pattern_chars} are allowed.", param
        )
    _check_text(pattern, param, bounds)


def check_ebnf(grammar: str, param: str, bounds: Grammars) -> None:
    """Raise `Refusal` 400 for a grammar beyond the bounds."""
    if "::=" not in grammar:  # vLLM would take it for Lark's and translate it
        raise bad_value(f'{param} must be in EBNF, with rules such as root ::= "yes" | "no".', param)
    for sign, what, maximum in (("::=", "rules", bounds.rules), ("|", "alternatives", bounds.alternatives)):
        if grammar.count(sign) > maximum:
            raise bad_value(f"{param} has {grammar.count(sign)} {what}; at most {maximum} are allowed.", param)
    _check_text(grammar, param, bounds)


def _check_text(text: str, param: str, bounds: Grammars) -> None:
    if "\x00" in text:
        raise bad_value(f"{param} must not contain a NUL character.", param)
    for counts in _REPETITION.findall(text):
        if any(len(count) > 9 or int(count or 0) > bounds.repetitions for count in counts):
            raise bad_value(f"{param} repeats something more than {bounds.repetitions} times, which is the limit.", param)
    depth = 0
    for sign in re.findall(r"\\.|[()]", text):  # a bracket within quotes or a class counts too
        depth = depth + 1 if sign == "(" else max(0, depth - 1) if sign == ")" else depth
        if depth > bounds.nesting:
            raise bad_value(f"{param} has groups that are nested deeper than {bounds.nesting} levels.", param)


def _walk(root: dict[str, Any], param: str, bounds: Grammars, leave_out: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """Every object in a JSON value, whose depth and lists are within the bounds."""
    level: list[Any] = [root]
    for _ in range(bounds.nesting):
        following: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                yield node
                following += (value for name, value in node.items() if name not in leave_out)
            elif isinstance(node, list):
                if len(node) > bounds.alternatives:
                    message = f"{param} has a list of {len(node)} entries; at most {bounds.alternatives} are allowed."
                    raise bad_value(message, param)
                following += node
        level = following
        if not level:
            return
    raise bad_value(f"{param} is nested deeper than {bounds.nesting} levels.", param)


def _check_nodes(nodes: list[dict[str, Any]], param: str, bounds: Grammars) -> None:
    properties = sum(len(node["properties"]) for node in nodes if isinstance(node.get("properties"), dict))
    if properties > bounds.properties:
        raise bad_value(f"{param} has {properties} properties; at most {bounds.properties} are allowed.", param)
    for node in nodes:
        for name in _COUNTS:
            value = node.get(name)
            if isinstance(value, int | float) and value > bounds.repetitions:
                raise bad_value(f"{param}: {name} may be at most {bounds.repetitions}.", param)
        if isinstance(node.get("pattern"), str):
            check_pattern(node["pattern"], param, bounds)
        if isinstance(node.get("grammar"), str):
            check_ebnf(node["grammar"], param, bounds)
        if isinstance(node.get("patternProperties"), dict):
            for pattern in node["patternProperties"]:
                check_pattern(pattern, param, bounds)


class _References:
    """The `$ref`s of one schema: each leads somewhere within it, by few steps, and to itself only through a part of it."""

    def __init__(self, root: dict[str, Any], param: str, bounds: Grammars) -> None:
        self._root, self._param, self._bounds = root, param, bounds
        self._heights: dict[int, int | None] = {}
        """Longest way on from a schema, by its identity; None while it is being followed."""

    def check(self) -> None:
        for node in _walk(self._root, self._param, self._bounds):
            if isinstance(node.get("$ref"), str):
                self._height(node, 0)

    def _height(self, node: dict[str, Any], depth: int) -> int:
        if id(node) not in self._heights:
            self._check_steps(depth)
            self._heights[id(node)] = None
            self._heights[id(node)] = 1 + max((self._height(schema, depth + 1) for schema in self._same_place(node)), default=0)
        height = self._heights[id(node)]
        if height is None:
            raise bad_value(f"{self._param}: a $ref leads back to itself, so the schema describes nothing.", self._param)
        self._check_steps(depth + height)
        return height

    def _check_steps(self, steps: int) -> None:
        if steps > self._bounds.nesting:
            message = f"{self._param}: references lead from one to the next for more than {self._bounds.nesting} steps."
            raise bad_value(message, self._param)

    def _same_place(self, node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if isinstance(node.get("$ref"), str):
            yield self._target(node["$ref"])
        for name in _SAME_PLACE:
            if isinstance(node.get(name), list):
                yield from (schema for schema in node[name] if isinstance(schema, dict))

    def _target(self, reference: str) -> dict[str, Any]:
        target: Any = self._root
        parts = reference.split("/")
        for part in parts[1:] if parts[0] == "#" else [None]:
            target = target.get(part) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            allowed = "allowed are # and paths from the root such as #/$defs/name"
            raise bad_value(f"{self._param}: the $ref {reference[:80]!r} leads to no schema; {allowed}.", self._param)
        return target

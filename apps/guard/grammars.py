"""Where a request holds a grammar that the engine would compile: all the ways of vLLM 0.29, as object or as string.

Sources: `vllm/sampling_params.py` (StructuredOutputsParams), `entrypoints/generate/base/protocol.py`, `tool_parsers/utils.py`.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from apps.guard import grammar_bounds
from apps.guard.answers import bad_value
from apps.guard.settings import Grammars

JSON, REGEX, EBNF, TAG = "json", "regex", "grammar", "structural_tag"
_CHECKS: dict[str, Callable[[Any, str, Grammars], None]] = {
    JSON: grammar_bounds.check_schema,
    REGEX: grammar_bounds.check_pattern,
    EBNF: grammar_bounds.check_ebnf,
    TAG: grammar_bounds.check_tag,
}


class Grammar(NamedTuple):
    """A grammar within bounds, in the form that xgrammar takes."""

    kind: str
    text: str
    param: str
    """The field that it came in."""


def find_grammars(fields: dict[str, Any], bounds: Grammars) -> list[Grammar]:
    """All grammars of a request. Raises `Refusal` 400 for one that is no grammar or beyond the bounds."""
    grammars = [
        *_of_format(fields.get("response_format"), bounds),
        *_of_outputs(fields.get("structured_outputs"), bounds),
        *_of_tools(fields.get("tools"), fields.get("tool_choice"), bounds),
    ]
    if grammars:
        grammar_bounds.check_size(sum(len(grammar.text) for grammar in grammars), grammars[0].param, bounds)
    return grammars


def _of_format(format: Any, bounds: Grammars) -> Iterator[Grammar]:
    if not isinstance(format, dict):
        return
    if format.get("type") == "json_schema":
        param = "response_format.json_schema"
        wrapped = format.get("json_schema")
        if not isinstance(wrapped, dict) or not isinstance(wrapped.get("schema"), dict):
            raise bad_value(f'{param} must be an object with a name and a schema, such as {{"type": "object"}}.', param)
        yield _grammar(JSON, wrapped["schema"], f"{param}.schema", bounds)
    elif format.get("type") == "structural_tag":
        yield _grammar(TAG, format, "response_format", bounds)


def _of_outputs(outputs: Any, bounds: Grammars) -> Iterator[Grammar]:
    for name, value in outputs.items() if isinstance(outputs, dict) else ():
        param = f"structured_outputs.{name}"
        if value is None:
            continue
        if name == "choice":
            yield _choice(value, param, bounds)
        elif name in _CHECKS:
            if not isinstance(value, str) and not (name == "json" and isinstance(value, dict)):
                raise bad_value(f"{param} must be a string{' or an object' if name == 'json' else ''}.", param)
            yield _grammar(name, value, param, bounds)


def _of_tools(tools: Any, choice: Any, bounds: Grammars) -> Iterator[Grammar]:
    """Parameters of functions that the model is made to call; what it may call if it likes is a matter of the prompt."""
    forced = isinstance(choice, dict) or choice == "required"
    for index, tool in enumerate(tools if isinstance(tools, list) and choice != "none" else ()):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not (forced or function.get("strict")):
            continue
        if isinstance(function.get("parameters"), dict):
            yield _grammar(JSON, function["parameters"], f"tools.{index}.function.parameters", bounds)


def _grammar(kind: str, value: Any, param: str, bounds: Grammars) -> Grammar:
    """A grammar as it came; a schema or a tag as an object, or as a string that holds one."""
    if kind in (JSON, TAG) and isinstance(value, str):
        value = grammar_bounds.parse_object(value, param, bounds)
    _CHECKS[kind](value, param, bounds)
    return Grammar(kind, value if isinstance(value, str) else json.dumps(value), param)


def _choice(choices: Any, param: str, bounds: Grammars) -> Grammar:
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) for choice in choices):
        raise bad_value(f"{param} must be a list of strings.", param)
    if len(choices) > bounds.alternatives:
        raise bad_value(f"{param} has {len(choices)} entries; at most {bounds.alternatives} are allowed.", param)
    quoted = (re.sub(r'(["\\])', r"\\\1", choice) for choice in choices)  # as vLLM's choice_as_grammar does
    return Grammar(EBNF, "root ::= " + " | ".join(f'"{choice}"' for choice in quoted), param)

"""Where a request holds a grammar that the engine would compile: all the ways of vLLM 0.29, as object or as string.

Sources: `vllm/sampling_params.py` (StructuredOutputsParams), `entrypoints/generate/base/protocol.py`, `tool_parsers/utils.py`.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from apps.guard import grammar_bounds
from apps.guard.answers import bad_value
from apps.guard.settings import Grammars

JSON, REGEX, EBNF, TAG = "json", "regex", "grammar", "structural_tag"


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
        yield _schema(wrapped["schema"], f"{param}.schema", bounds)
    elif format.get("type") == "structural_tag":
        yield _tag(format, "response_format", bounds)


def _of_outputs(outputs: Any, bounds: Grammars) -> Iterator[Grammar]:
    for name, value in outputs.items() if isinstance(outputs, dict) else ():
        param = f"structured_outputs.{name}"
        if value is None or name not in _READERS:
            continue
        if name == "json" and isinstance(value, dict):
            yield _schema(value, param, bounds)
        elif name != "choice" and not isinstance(value, str):
            raise bad_value(f"{param} must be a string{' or an object' if name == 'json' else ''}.", param)
        else:
            yield _READERS[name](value, param, bounds)


def _of_tools(tools: Any, choice: Any, bounds: Grammars) -> Iterator[Grammar]:
    """Parameters of functions that the model is made to call; what it may call if it likes is a matter of the prompt."""
    forced = isinstance(choice, dict) or choice == "required"
    for index, tool in enumerate(tools if isinstance(tools, list) and choice != "none" else ()):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not (forced or function.get("strict")):
            continue
        if isinstance(function.get("parameters"), dict):
            yield _schema(function["parameters"], f"tools.{index}.function.parameters", bounds)


def _schema(schema: dict[str, Any], param: str, bounds: Grammars) -> Grammar:
    grammar_bounds.check_schema(schema, param, bounds)
    return Grammar(JSON, json.dumps(schema), param)


def _tag(tag: dict[str, Any], param: str, bounds: Grammars) -> Grammar:
    grammar_bounds.check_tag(tag, param, bounds)
    return Grammar(TAG, json.dumps(tag), param)


def _json_text(text: str, param: str, bounds: Grammars) -> Grammar:
    return _schema(grammar_bounds.parse_object(text, param, bounds), param, bounds)


def _tag_text(text: str, param: str, bounds: Grammars) -> Grammar:
    return _tag(grammar_bounds.parse_object(text, param, bounds), param, bounds)


def _regex(text: str, param: str, bounds: Grammars) -> Grammar:
    grammar_bounds.check_pattern(text, param, bounds)
    return Grammar(REGEX, text, param)


def _ebnf(text: str, param: str, bounds: Grammars) -> Grammar:
    if "::=" not in text:  # vLLM would take it for Lark's and translate it
        raise bad_value(f'{param} must be in EBNF, with rules such as root ::= "yes" | "no".', param)
    grammar_bounds.check_ebnf(text, param, bounds)
    return Grammar(EBNF, text, param)


def _choice(choices: Any, param: str, bounds: Grammars) -> Grammar:
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) for choice in choices):
        raise bad_value(f"{param} must be a list of strings.", param)
    if len(choices) > bounds.alternatives:
        raise bad_value(f"{param} has {len(choices)} entries; at most {bounds.alternatives} are allowed.", param)
    quoted = (re.sub(r'(["\\])', r"\\\1", choice) for choice in choices)  # as vLLM's choice_as_grammar does
    return Grammar(EBNF, "root ::= " + " | ".join(f'"{choice}"' for choice in quoted), param)


_READERS = {"json": _json_text, "regex": _regex, "choice": _choice, "grammar": _ebnf, "structural_tag": _tag_text}

"""Grammars that nobody means well with, drawn by hypothesis: nested, repeated, recursive, ambiguous, and plain wrong."""

import json
from typing import Any

from hypothesis import strategies as st

from tests.guard.hostile import LEAKS, VALUES

__all__ = ["LEAKS", "requests"]

_COUNTS = st.sampled_from([0, 1, 2, 7, 30, 100, 1000, 9999, 10_000, 10_001, 2**31, -1, 0.5])
_ATOMS = st.sampled_from(
    [
        "a",
        ".",
        "[a-z]",
        "[^\\n]",
        r"\w",
        r"\d",
        "\\",
        "[",
        "(?:a)",
        "(?=a)",
        r"\1",
        "^",
        "$",
        "é",
        "\U0001f600",
        "\x00",
        "|",
        r"\p{L}",
    ]
)


def _regex_of(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    repeated = st.builds(lambda a, n, m: f"({a}){{{n},{m}}}", inner, _COUNTS, _COUNTS)
    starred = st.builds("({}){}".format, inner, st.sampled_from(["*", "+", "?", "{2}", "*?", "{,3}"]))
    return repeated | starred | st.builds("{}{}".format, inner, inner) | st.builds("({}|{})".format, inner, inner)


def _nested(text: str, levels: int) -> str:
    return "(" * levels + text + ")" * levels


REGEXES = st.recursive(_ATOMS, _regex_of, max_leaves=10) | st.builds(
    _nested, _ATOMS, st.sampled_from([10, 60, 64, 65, 5000, 50_000])
)

_REFERENCES = st.sampled_from(["#", "#/$defs/a", "#/$defs/b", "#/$defs/none", "#/properties/a", "http://x", "", "#foo"])
_TYPES = st.sampled_from(["string", "integer", "number", "object", "array", "boolean", "null", "nothing"])
_LEAVES = st.one_of(
    st.builds(lambda n: {"$ref": n}, _REFERENCES),
    st.builds(lambda n, m: {"type": "string", "minLength": n, "maxLength": m}, _COUNTS, _COUNTS),
    st.builds(lambda n: {"type": "string", "pattern": n}, REGEXES),
    st.builds(lambda n, m: {"type": "integer", "minimum": n, "maximum": m}, _COUNTS, _COUNTS | st.just(10**18)),
    st.builds(lambda n, m: {"type": "number", "minimum": n, "exclusiveMaximum": m}, _COUNTS, _COUNTS | st.just(1e300)),
    st.builds(lambda n: {"type": n}, _TYPES),
    st.builds(lambda n: {"type": "string", "format": n}, st.sampled_from(["email", "date-time", "uri", "nothing"])),
    st.builds(lambda n: {"enum": n}, st.lists(VALUES, max_size=4)),
    st.builds(lambda n: {"enum": [f"v{i}" for i in range(n)]}, st.sampled_from([1, 500, 1000, 3000])),
    st.builds(lambda n: {"const": n}, VALUES),
    st.builds(lambda n: {"properties": {f"p{i}": {"type": "string"} for i in range(n)}}, st.sampled_from([10, 200, 500, 2000])),
)


def _schema_of(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["a", "b", "c", "", "é", '"', "a/b"])
    return st.one_of(
        st.builds(
            lambda p, r: {"type": "object", "properties": p, "required": r}, st.dictionaries(names, inner), st.lists(names)
        ),
        st.builds(lambda i, n, m: {"type": "array", "items": i, "minItems": n, "maxItems": m}, inner, _COUNTS, _COUNTS),
        st.builds(lambda i: {"type": "array", "prefixItems": i}, st.lists(inner, max_size=3)),
        st.builds(lambda n, i: {n: i}, st.sampled_from(["anyOf", "allOf", "oneOf"]), st.lists(inner, max_size=3)),
        st.builds(lambda a, b, i: {**i, "$defs": {"a": a, "b": b}}, inner, inner, inner),
        st.builds(lambda p, i: {"patternProperties": {p: i}}, REGEXES, inner),
        st.builds(lambda i, n, m: {**i, "additionalProperties": n, "maxProperties": m}, inner, inner | st.booleans(), _COUNTS),
    )


def _tower(schema: Any, levels: int) -> Any:
    for _ in range(levels):
        schema = {"items": schema}
    return schema


SCHEMAS = st.recursive(_LEAVES, _schema_of, max_leaves=8) | st.builds(_tower, _LEAVES, st.sampled_from([5, 29, 60, 400]))

_PARTS = st.sampled_from(
    ['"a"', "a", "b", "root", "[a-z]", '""', "(", ")", "|", "*", "+", "?", "{5}", "{1,10000}", "[^a]", "\\", '"']
)
_BODIES = st.lists(_PARTS, min_size=1, max_size=8).map(" ".join)
EBNFS = st.builds("root ::= {}\na ::= {}\nb ::= {}".format, _BODIES, _BODIES, _BODIES) | _BODIES


def _format(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def _tag(schema: Any) -> dict[str, Any]:
    tag = {"begin": "<f>", "schema": schema, "end": "</f>"}
    return {"response_format": {"type": "structural_tag", "structures": [tag], "triggers": ["<f"]}}


def _new_tag(format: Any) -> dict[str, Any]:
    return {"response_format": {"type": "structural_tag", "format": format}}


def _tool(schema: Any) -> dict[str, Any]:
    function = {"name": "f", "parameters": schema}
    return {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}


def _output(name: str, value: Any) -> dict[str, Any]:
    return {"structured_outputs": {name: value}}


requests = st.one_of(
    st.builds(_format, SCHEMAS),
    st.builds(_format, VALUES),
    st.builds(_tag, SCHEMAS),
    st.builds(_new_tag, st.builds(lambda s: {"type": "json_schema", "json_schema": s}, SCHEMAS)),
    st.builds(_new_tag, st.builds(lambda s: {"type": "regex", "pattern": s}, REGEXES)),
    st.builds(_new_tag, st.builds(lambda s: {"type": "grammar", "grammar": s}, EBNFS)),
    st.builds(_tool, SCHEMAS),
    st.builds(_output, st.just("json"), SCHEMAS | SCHEMAS.map(json.dumps)),
    st.builds(_output, st.just("regex"), REGEXES),
    st.builds(_output, st.just("grammar"), EBNFS),
    st.builds(_output, st.just("choice"), st.lists(REGEXES, max_size=4)),
    st.builds(_output, st.sampled_from(["json", "regex", "grammar", "choice", "structural_tag", "json_object", "x"]), VALUES),
)

"""Check values against the stored schemas: unknown keys, wrong types, missing keys, values outside a list or a range."""

from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from apps.checks.findings import Finding, closest, unknown_key

_TYPES = {"object": "a mapping", "array": "a list", "string": "a string", "boolean": "true or false", "null": "null"}


def against(schema: dict[str, Any], value: Any, why_unknown: str) -> list[Finding]:
    """All findings in `value`, with paths from its top. `why_unknown` is what happens to a key that is not in the schema."""
    errors = Draft202012Validator(schema).iter_errors(value)
    return [finding for error in errors for finding in _explain(error, why_unknown)]


def _explain(error: ValidationError, why_unknown: str) -> Iterator[Finding]:
    path = tuple(error.absolute_path)
    match error.validator:
        case "additionalProperties":
            known = error.schema.get("properties", {})
            for key in error.instance:
                if key not in known:
                    yield unknown_key(path, str(key), known, why_unknown)
        case "required":
            for key in error.validator_value:
                if key not in error.instance:
                    yield Finding((*path, key), f"{key!r} is missing")
        case "anyOf" | "oneOf":
            yield from _explain_choice(error, why_unknown)
        case "enum":
            yield _not_listed(path, error.instance, [str(value) for value in error.validator_value])
        case "type":
            yield _wrong_type(path, error.instance, _types(error.schema))
        case _:
            yield Finding(path, f"is {error.instance!r}: {error.message}", value=error.instance)


def _explain_choice(error: ValidationError, why_unknown: str) -> Iterator[Finding]:
    """Explain the allowed schema that the value is closest to; where none is close, name the types of all."""
    branches: dict[Any, list[ValidationError]] = {}
    for inner in error.context or []:
        branches.setdefault(inner.relative_schema_path[0], []).append(inner)
    shape_fits = [errors for errors in branches.values() if not any(_is_of_the_whole(inner) for inner in errors)]
    if shape_fits:
        for inner in min(shape_fits, key=len):
            yield from _explain(inner, why_unknown)
    else:
        yield _wrong_type(
            tuple(error.absolute_path), error.instance, [t for schema in error.validator_value for t in _types(schema)]
        )


def _wrong_type(path: tuple[str | int, ...], value: Any, types: list[str]) -> Finding:
    wanted = " or ".join(dict.fromkeys(_TYPES.get(name, f"a {name}") for name in types)).replace("a integer", "an integer")
    return Finding(path, f"is {value!r}, but must be {wanted}", value=value)


def _types(schema: dict[str, Any]) -> list[str]:
    types = schema.get("type", "object" if "properties" in schema or "$ref" in schema else "string")
    return list(types) if isinstance(types, list) else [types]


def _is_of_the_whole(error: ValidationError) -> bool:
    return error.validator == "type" and not error.relative_path


def _not_listed(path: tuple[str | int, ...], value: Any, allowed: list[str]) -> Finding:
    hint = closest(value, allowed) if isinstance(value, str) else None
    message = f"is {value!r}, which is not one of the values it may have"
    return Finding(path, message, value=value, allowed=", ".join(allowed), did_you_mean=hint)

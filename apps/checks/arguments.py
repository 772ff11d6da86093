"""Check values against the pydantic models of this project's own arguments."""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from apps.checks.findings import Finding, Path, unknown_key


def against_model(model: type[BaseModel], args: Any) -> list[Finding]:
    """All findings in the arguments of a pydantic model, with paths from their top."""
    try:
        model.model_validate(args)
    except ValidationError as error:
        return [_from_pydantic(model, problem) for problem in error.errors()]
    return []


def _from_pydantic(model: type[BaseModel], problem: Any) -> Finding:
    path: Path = tuple(problem["loc"])
    if problem["type"] == "extra_forbidden":
        return unknown_key(path[:-1], str(path[-1]), _fields(model, path[:-1]), "nothing here reads it")
    if problem["type"] == "missing":
        return Finding(path, f"{path[-1]!r} is missing")
    message = problem["msg"].removeprefix("Value error, ")
    if isinstance(problem["input"], Mapping):
        return Finding(path, message)
    return Finding(path, f"is {problem['input']!r}: {message}", value=problem["input"])


def _fields(model: type[BaseModel], path: Path) -> list[str]:
    """Names of the fields at a path below a model."""
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)

"""Values against the pydantic models of this project's own arguments."""

from inspect import isclass
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
        return unknown_key(path[:-1], str(path[-1]), list(_model_at(model, path[:-1]).model_fields), "the app does not take it")
    if problem["type"] == "missing":
        return Finding(path, f"{path[-1]!r} is missing")
    return Finding(path, f"is {problem['input']!r}: {problem['msg'].removeprefix('Value error, ')}", value=problem["input"])


def _model_at(model: type[BaseModel], path: Path) -> type[BaseModel]:
    """The model of a section, which may be optional."""
    for part in path:
        field = model.model_fields.get(str(part))
        choices = [one for one in (field.annotation, *get_args(field.annotation)) if isclass(one)] if field else []
        model = next((one for one in choices if issubclass(one, BaseModel)), model)
    return model

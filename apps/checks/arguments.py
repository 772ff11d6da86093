"""Values against the pydantic models of this project's own arguments."""

from typing import Any

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
        return unknown_key(path[:-1], str(path[-1]), list(model.model_fields), "the app does not take it")
    if problem["type"] == "missing":
        return Finding(path, f"{path[-1]!r} is missing")
    return Finding(path, f"is {problem['input']!r}: {problem['msg'].removeprefix('Value error, ')}", value=problem["input"])

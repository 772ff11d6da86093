"""Write `known/*.json` from the installed Ray and vLLM: `python -m tests.checks.refresh`, after either was upgraded.

Imports Ray's private `ray.llm._internal` for the classes whose fields are the engine's arguments (pinned: 2.60.0). Takes 15 s.
"""

import dataclasses
import json
import logging
import sys
import typing
import warnings
from typing import Any

from apps.checks.known import DIRECTORY

_PROSE = ("title", "description", "default", "examples", "deprecated")


def schemas() -> dict[str, dict[str, Any]]:
    """The schemas by name, without prose, closed to unknown keys wherever keys are listed."""
    from ray.serve.schema import ServeDeploySchema

    serve = _sharpened(_closed(ServeDeploySchema.model_json_schema()))
    return {"serve": serve, "llm": _sharpened(_llm(serve["$defs"])), "engine": _engine()}


def render(schema: dict[str, Any]) -> str:
    """JSON with one line for each key of the first two levels, so that a changed key is one line of a diff."""
    parts = []
    for key, value in sorted(schema.items()):
        inner = f"{{\n{_lines(value)}\n}}" if isinstance(value, dict) and value else json.dumps(value)
        parts.append(f"{json.dumps(key)}: {inner}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _lines(value: dict[str, Any]) -> str:
    return ",\n".join(f" {json.dumps(key)}: {json.dumps(inner, sort_keys=True)}" for key, inner in sorted(value.items()))


def _llm(serve_definitions: dict[str, Any]) -> dict[str, Any]:
    from ray.serve.llm import LLMConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a default that is a class has no JSON form; defaults are dropped anyway
        schema = _closed(LLMConfig.model_json_schema())
    properties = schema["properties"]
    deployment = dict(serve_definitions["DeploymentSchema"]["properties"])
    schema["$defs"] |= serve_definitions
    properties["deployment_config"] = {"type": "object", "properties": deployment, "additionalProperties": False}
    properties["accelerator_config"] = {}  # rules of their own check more
    properties["engine_kwargs"] = {"type": "object"}
    return schema


def _engine() -> dict[str, Any]:
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError
    from ray.llm._internal.serve.engines.vllm.vllm_models import FrontendArgs
    from vllm import config
    from vllm.engine.arg_utils import AsyncEngineArgs

    properties: dict[str, Any] = {}
    for owner in (AsyncEngineArgs, FrontendArgs):
        names = {**vars(config), **vars(sys.modules[owner.__module__]), "QuantizationConfigArgs": dict}
        hints = typing.get_type_hints(owner, globalns=names)
        for field in dataclasses.fields(owner):
            try:
                schema = _closed(TypeAdapter(hints[field.name]).json_schema())
            except PydanticSchemaGenerationError:  # torch.dtype
                schema = {}
            nullable = field.default is None and "null" not in json.dumps(schema)
            properties[field.name] = {"anyOf": [schema, {"type": "null"}]} if nullable and schema else schema
    _add_parsers(properties)
    return {"type": "object", "properties": _inlined(properties), "additionalProperties": False}


def _add_parsers(properties: dict[str, Any]) -> None:
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    properties["reasoning_parser"] = {"enum": ReasoningParserManager.list_registered()}
    properties["tool_call_parser"] = {"enum": ToolParserManager.list_registered()}


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items() if key not in _PROSE or not isinstance(value, str | bool)}
    closed = {key: value for key, value in closed.items() if key != "default" or (isinstance(value, dict) and "type" in value)}
    if "properties" in closed:
        closed["properties"] = {key: _closed(value) for key, value in schema["properties"].items()}
        closed.setdefault("additionalProperties", False)
    if closed.get("additionalProperties") is True:
        del closed["additionalProperties"]
    if any("$ref" in choice for choice in closed.get("anyOf", [])):  # "a dict, or a class": Ray makes the class of the dict
        closed["anyOf"] = [choice for choice in closed["anyOf"] if choice != {"type": "object"}]
    return closed


def _sharpened(schema: Any) -> Any:
    """Add what Ray checks only when it deploys, or when it starts a worker."""
    from ray.runtime_env import RuntimeEnv

    if isinstance(schema, list):
        return [_sharpened(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    sharpened = {key: _sharpened(value) for key, value in schema.items()}
    properties = sharpened.get("properties", {})
    if "runtime_env" in properties:
        known: dict[str, Any] = {key: {} for key in sorted(RuntimeEnv.known_fields)}
        known["env_vars"] = {"type": "object", "additionalProperties": {"type": "string"}}
        closed = {"type": "object", "properties": known, "additionalProperties": False}
        properties["runtime_env"] = {"anyOf": [closed, {"type": "null"}]}
    if "import_path" in properties:
        properties["import_path"] |= {"pattern": "^([^:]*[^:.][.][^:.]+|[^:]+:[^:]+)$"}
    if "callback_class" in properties:  # a class has no JSON form; a Serve config names it
        properties["callback_class"] = {"type": "string"}
    if "log_level" in properties:
        levels = logging.getLevelNamesMapping()
        properties["encoding"] = {"enum": ["JSON", "TEXT"]}
        properties["log_level"] = {"enum": [*levels, *sorted(set(levels.values()))]}
    if "num_replicas" in properties:
        properties["num_replicas"] = {
            "anyOf": [{"type": "string", "enum": ["auto"]}, {"type": "integer", "minimum": 1}, {"type": "null"}]
        }
    if "max_queued_requests" in properties:
        properties["max_queued_requests"] = {"anyOf": [{"const": -1}, {"type": "integer", "minimum": 1}]}
    return sharpened


def _inlined(properties: dict[str, Any]) -> dict[str, Any]:
    """Put each argument's own definitions inside it, because references of different arguments have the same names."""

    def inline(schema: Any, definitions: dict[str, Any]) -> Any:
        if isinstance(schema, list):
            return [inline(item, definitions) for item in schema]
        if not isinstance(schema, dict):
            return schema
        if reference := schema.get("$ref"):
            return inline(definitions[reference.rpartition("/")[2]], definitions)
        return {key: inline(value, definitions) for key, value in schema.items() if key != "$defs"}

    return {name: inline(schema, schema.get("$defs", {})) for name, schema in properties.items()}


def main() -> int:
    """Write the files."""
    for name, schema in schemas().items():
        (DIRECTORY / f"{name}.json").write_text(render(schema))
        print(f"wrote {name}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())

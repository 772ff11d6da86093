"""Write a layout's engine arguments into a Serve config: single values, so that comments and order stay. A file that is not
there is made from serve_configs/gemma.yaml.

The result is checked as `scripts/validate.py` does before it is saved.
"""

import re
from collections.abc import Mapping
from pathlib import Path as File
from typing import Any

import yaml

from apps.checks.findings import Path
from apps.checks.serve_rules import check_serve_config
from apps.checks.slice_rules import shape_of
from apps.checks.source import read
from apps.checks.variant import merged
from apps.common.errors import UserError
from apps.guard.settings import Queue
from apps.slice.models import model_id_of
from apps.slice.topology import Slice, slice_of
from benchmarks.planner.candidates import Status
from benchmarks.planner.footprint import engine_arguments
from benchmarks.planner.plan import PlanRequest, Row

_TEMPLATE = File(__file__).resolve().parents[2] / "serve_configs" / "gemma.yaml"
_OF_GEMMA_4 = ("enable_auto_tool_choice", "tool_call_parser", "reasoning_parser")
_OF_IMAGES = ("limit_mm_per_prompt", "disable_chunked_mm_input")
_LINE = re.compile(r"(?P<start> *\w+:) +(?P<value>[^#\s]+)( +#.*)?$")


def write(row: Row, request: PlanRequest, file: File) -> None:
    """Set the arguments that follow from the layout, and leave everything else of the file as it is.

    Raises:
        UserError: the layout has no way in that anyone tested, the file serves another model or cannot be edited line by line,
            or the result would not pass `scripts/validate.py`; the file is unchanged.
    """
    _require_usable(row, request)
    text, content = _edited(row, request, file) if file.exists() else _created(row, request)
    if yaml.safe_load(text) != content:
        raise UserError(f"{file}: cannot be changed line by line; each engine argument needs a line of its own")
    errors = [finding for finding in check_serve_config(content, direct_streaming=True) if finding.severity == "error"]
    if errors:
        raise UserError(f"{file}: would not pass scripts/validate.py, and is left as it was: {'; '.join(map(str, errors))}")
    try:
        file.write_text(text)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror})") from None


def slice_in(file: File) -> Slice | None:
    """The slice that a Serve config is for; None where there is no such file."""
    if not file.exists():
        return None
    content = read(file).content
    config = _at(content, _tpu_config(content, file))
    return slice_of(str(config.get("accelerator_type")), str(config["accelerator_config"].get("topology")))


def _require_usable(row: Row, request: PlanRequest) -> None:
    if row.candidate.layout.dtype != "bfloat16" or row.candidate.status is Status.BROKEN:
        why = "; ".join(note.text for note in row.candidate.notes)
        raise UserError(f"{row.candidate.name} is not written: {why}")
    if row.within_slo.fast is None:
        raise UserError(f"{row.candidate.name} does not do what was requested: no load meets the SLO")
    if row.longest_request_tokens < request.max_context:
        longest = f"a request has at most {row.longest_request_tokens:,} tokens"
        raise UserError(f"{row.candidate.name} does not do what was requested: {longest}")


def _edited(row: Row, request: PlanRequest, file: File) -> tuple[str, Any]:
    """The file's text with the row's arguments, and what is then in it."""
    content, text = read(file).content, file.read_text()
    path = _tpu_config(content, file)
    configs, index = _at(content, path[:-1]), path[-1]
    model = shape_of(configs[index])
    if model and model.text_parameters != request.shape.text_parameters:
        raise UserError(f"{file}: serves another model than {request.model}: give it as --model")
    patch = _patch(row, request, _at(content, path[:3]))
    for part, values in patch.items():
        for key, value in values.items():
            text = set_value(text, (*path, part, key), value, f"scripts/plan.py: {row.candidate.name}")
    configs[index] = merged(configs[index], patch)
    return text, content


def _created(row: Row, request: PlanRequest) -> tuple[str, Any]:
    """A new config for the model and all slices of the row, and its content."""
    model_id = model_id_of(request.shape) or File(request.model).name
    base = yaml.safe_load(_TEMPLATE.read_text())
    patch = _patch(row, request, base["applications"][0]["args"])
    several = row.on.hosts > 1
    model: dict[str, Any] = {
        "model_loading_config": {"model_id": model_id, "model_source": f"/weights/{model_id.rpartition('/')[2].lower()}"},
        "accelerator_type": row.on.generation.accelerator_type,
        "accelerator_config": {"topology": row.on.topology},
        "runtime_env": {"env_vars": {"TPU_MULTIHOST_BACKEND": "ray" if several else None}},
        "deployment_config": {"num_replicas": row.replicas, **patch["deployment_config"]},
        "engine_kwargs": {
            **patch["engine_kwargs"],
            "distributed_executor_backend": "ray" if several else None,
            **(dict.fromkeys(_OF_GEMMA_4) if "gemma-4" not in model_id.lower() else {}),
            **(dict.fromkeys(_OF_IMAGES) if not request.shape.vision_parameters else {}),
        },
    }
    content = merged(base, {"applications": [{"name": "llm", "args": {"llm_configs": [model]}}]})
    head = f"# scripts/plan.py: {row.name}; the rest is as in serve_configs/gemma.yaml, which explains it.\n"
    return head + yaml.safe_dump(content, sort_keys=False, width=128), content


def _patch(row: Row, request: PlanRequest, args: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Values to set in an LLM config of an app with these args; None for a key that must not be there."""
    layout, load = row.candidate.layout, row.within_slo.fast
    assert load
    running = load.sequences // row.replicas
    sequences = running // layout.data_parallel  # of each group (dp_scheduler: per-rank limits)
    waiting = _mapping(_mapping(args.get("guard")).get("queue")).get("waiting", Queue().waiting)
    # What Serve lets in: what the engine runs, what waits in the guard, and as many for the guard to refuse.
    requests = running + 2 * waiting
    return {
        "engine_kwargs": engine_arguments(layout, request.max_context, sequences),
        "deployment_config": {"max_ongoing_requests": requests, "max_queued_requests": requests},
    }


def _tpu_config(content: Mapping[str, Any], file: File) -> Path:
    """Path of the one LLM config on TPU."""
    applications = content.get("applications")
    paths: list[Path] = [
        ("applications", number, "args", "llm_configs", index)
        for number, application in enumerate(applications if isinstance(applications, list) else ())
        for index, config in enumerate(_mapping(_mapping(application).get("args")).get("llm_configs") or ())
        if _mapping(_mapping(config).get("accelerator_config")).get("kind") == "tpu"
    ]
    if len(paths) != 1:
        raise UserError(f"{file}: has {len(paths)} LLM configs with accelerator_config.kind tpu, but must have exactly one")
    return paths[0]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _at(content: Any, path: Path) -> Any:
    for step in path:
        content = content[step]
    return content


def set_value(text: str, path: Path, value: Any, comment: str) -> str:
    """The text with one value set, with a comment in the place of the one that was there; None removes the line.

    A value that is right already keeps its line as it is.

    Raises:
        UserError: the key or the mapping that it is in are not on lines of their own.
    """
    lines, where = text.splitlines(keepends=True), ".".join(map(str, path))
    parent = _node(yaml.compose(text, yaml.SafeLoader), path[:-1])
    if not isinstance(parent, yaml.MappingNode) or parent.flow_style or not parent.value:
        raise UserError(f"{where} cannot be set: what it is in must be a mapping with a line for each key")
    old = next((key for key, _ in parent.value if key.value == path[-1]), None)
    if old is not None:
        number = old.start_mark.line
        match = _LINE.match(lines[number])
        if match is None:
            raise UserError(f"{where} cannot be set: line {number + 1} must be `{path[-1]}: VALUE`")
        if yaml.safe_load(match["value"]) == value:
            return text
        lines[number] = "" if value is None else f"{match['start']} {value} # {comment}\n"
    elif value is not None:
        key, content = parent.value[0]  # after it: before it may stand the dash of a list
        number = parent.value[1][0].start_mark.line if len(parent.value) > 1 else content.end_mark.line + 1
        lines.insert(number, f"{' ' * key.start_mark.column}{path[-1]}: {value} # {comment}\n")
    return "".join(lines)


def _node(node: Any, path: Path) -> Any:
    for step in path:
        if isinstance(node, yaml.SequenceNode):
            node = node.value[int(step)]
        else:
            node = next((value for key, value in getattr(node, "value", ()) if key.value == step), None)
    return node

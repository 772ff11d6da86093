"""Write a layout's engine arguments into a Serve config: single values, so that comments and order stay. A file that is not
there is made from serve_configs/gemma.yaml.

The result is checked as `scripts/validate.py` does before it is saved.
"""

import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path as File
from typing import Any

import yaml

from apps.checks.findings import Path
from apps.checks.serve_rules import check_serve_config
from apps.checks.slice_rules import shape_of
from apps.checks.source import Source, read
from apps.checks.variant import merged
from apps.common.errors import UserError
from apps.guard.settings import Queue
from apps.slice.models import model_id_of
from apps.slice.topology import Slice, slice_of
from benchmarks.planner.candidates import Status
from benchmarks.planner.footprint import STEP_TOKENS, UTILIZATION
from benchmarks.planner.plan import PlanRequest, Row

_TEMPLATE = File(__file__).resolve().parents[2] / "serve_configs" / "gemma.yaml"
_OF_GEMMA_4 = ("enable_auto_tool_choice", "tool_call_parser", "reasoning_parser")
_OF_IMAGES = ("limit_mm_per_prompt", "disable_chunked_mm_input")
_LINE = re.compile(r"(?P<start> *\w+:) +[^#\s]+( +#.*)?$")


def write(row: Row, request: PlanRequest, file: File) -> None:
    """Set the arguments that follow from the layout, and leave everything else of the file as it is.

    Raises:
        UserError: the layout has no way in that anyone tested, the file serves another model or cannot be edited line by line,
            or the result would not pass `scripts/validate.py`; the file is unchanged.
    """
    _require_tested(row)
    if not file.exists():
        return _create(row, request, file)
    source = read(file)
    config = _tpu_config(source, file)
    _check_model(_at(source.content, config), request, file)
    wanted = _arguments(row, request) | _capacity(row, _at(source.content, config[:3]))
    text = file.read_text()
    for path, value in wanted.items():
        text = set_value(text, (*config, *path), value, f"scripts/plan.py: {row.candidate.name}")
    expected = deepcopy(source.content)
    for path, value in wanted.items():
        _put(_at(expected, (*config, *path[:-1])), path[-1], value)
    _check(text, expected, file)
    _save(text, file)


def slice_in(file: File) -> Slice | None:
    """The slice that a Serve config is for; None where there is no such file."""
    if not file.exists():
        return None
    source = read(file)
    config = _at(source.content, _tpu_config(source, file))
    return slice_of(str(config.get("accelerator_type")), str(config["accelerator_config"].get("topology")))


def _create(row: Row, request: PlanRequest, file: File) -> None:
    """Write a new config for the model and all slices of the row."""
    model_id = model_id_of(request.shape) or File(request.model).name
    base = yaml.safe_load(_TEMPLATE.read_text())
    arguments = {path[1]: value for path, value in _arguments(row, request).items()}
    several = row.on.hosts > 1
    model: dict[str, Any] = {
        "model_loading_config": {"model_id": model_id, "model_source": f"/weights/{model_id.rpartition('/')[2].lower()}"},
        "accelerator_type": row.on.generation.accelerator_type,
        "accelerator_config": {"topology": row.on.topology},
        "runtime_env": {"env_vars": {"TPU_MULTIHOST_BACKEND": "ray" if several else None}},
        "deployment_config": {"num_replicas": row.replicas},
        "engine_kwargs": {
            **arguments,
            "distributed_executor_backend": "ray" if several else None,
            **(dict.fromkeys(_OF_GEMMA_4) if "gemma-4" not in model_id.lower() else {}),
            **(dict.fromkeys(_OF_IMAGES) if not request.shape.vision_parameters else {}),
        },
    }
    application = {"name": "llm", "args": {"llm_configs": [model]}}
    content = merged(base, {"applications": [application]})
    capacity = _capacity(row, content["applications"][0]["args"])
    content["applications"][0]["args"]["llm_configs"][0]["deployment_config"] |= {path[-1]: n for path, n in capacity.items()}
    text = yaml.safe_dump(content, sort_keys=False, width=128)
    _check(text, content, file)
    _save(f"# scripts/plan.py: {row.name}; the rest is as in serve_configs/gemma.yaml, which explains it.\n{text}", file)


def _save(text: str, file: File) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror})") from None


def _require_tested(row: Row) -> None:
    if row.candidate.layout.dtype != "bfloat16" or row.candidate.status is Status.BROKEN:
        why = "; ".join(note.text for note in row.candidate.notes)
        raise UserError(f"{row.candidate.name} is not written: {why}")


def _tpu_config(source: Source, file: File) -> Path:
    """Path of the one LLM config on TPU."""
    applications = source.content.get("applications")
    paths: list[Path] = [
        ("applications", number, "args", "llm_configs", index)
        for number, application in enumerate(applications if isinstance(applications, list) else [])
        for index, config in enumerate(_llm_configs(application))
        if _mapping(_mapping(config).get("accelerator_config")).get("kind") == "tpu"
    ]
    if len(paths) != 1:
        raise UserError(f"{file}: has {len(paths)} LLM configs with accelerator_config.kind tpu, but must have exactly one")
    return paths[0]


def _llm_configs(application: Any) -> list[Any]:
    configs = _mapping(_mapping(application).get("args")).get("llm_configs")
    return configs if isinstance(configs, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _check_model(config: Mapping[str, Any], request: PlanRequest, file: File) -> None:
    model = shape_of(config)
    if model and model.text_parameters != request.shape.text_parameters:
        raise UserError(f"{file}: serves another model than {request.model}: give it as --model")


def _arguments(row: Row, request: PlanRequest) -> dict[Path, Any]:
    """Values by their path in an LLM config; None for a key that must not be there."""
    layout, load = row.candidate.layout, row.within_slo.fast
    if load is None or row.longest_request_tokens < request.max_context:
        raise UserError(
            f"{row.candidate.name} does not do what was requested: "
            + ("no load meets the SLO" if load is None else f"a request has at most {row.longest_request_tokens:,} tokens")
        )
    engine: dict[str, Any] = {
        "tensor_parallel_size": layout.tensor_parallel,
        "data_parallel_size": layout.data_parallel if layout.data_parallel > 1 else None,
        "pipeline_parallel_size": layout.pipeline_parallel if layout.pipeline_parallel > 1 else None,
        "kv_cache_dtype": layout.kv_dtype if layout.kv_dtype != "bfloat16" else None,
        "gpu_memory_utilization": UTILIZATION,
        "max_model_len": request.max_context,
        "max_num_seqs": load.sequences // row.replicas // layout.data_parallel,  # of each group (dp_scheduler: per-rank limits)
        "max_num_batched_tokens": STEP_TOKENS,
    }
    return {("engine_kwargs", name): value for name, value in engine.items()}


def _capacity(row: Row, args: Mapping[str, Any]) -> dict[Path, Any]:
    """How many requests Serve lets in: what the engine runs, what waits in the guard, and as many for the guard to refuse."""
    assert row.within_slo.fast
    waiting = _mapping(_mapping(args.get("guard")).get("queue")).get("waiting", Queue().waiting)
    requests = row.within_slo.fast.sequences // row.replicas + 2 * waiting
    return {("deployment_config", name): requests for name in ("max_ongoing_requests", "max_queued_requests")}


def _at(content: Any, path: Path) -> Any:
    for step in path:
        content = content[step]
    return content


def _put(mapping: dict[str, Any], key: Any, value: Any) -> None:
    if value is None:
        mapping.pop(key, None)
    else:
        mapping[key] = value


def _check(text: str, expected: Any, file: File) -> None:
    """Raise `UserError` unless the text has the expected content and passes the checks."""
    if yaml.safe_load(text) != expected:
        raise UserError(f"{file}: cannot be changed line by line; each engine argument needs a line of its own")
    errors = [finding for finding in check_serve_config(expected, direct_streaming=True) if finding.severity == "error"]
    if errors:
        raise UserError(f"{file}: would not pass scripts/validate.py, and is left as it was: {'; '.join(map(str, errors))}")


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
    old = next((pair for pair in parent.value if pair[0].value == path[-1]), None)
    if old is None:
        first = parent.value[0]  # after it: before it may stand the dash of a list
        new = [] if value is None else [f"{' ' * first[0].start_mark.column}{path[-1]}: {value}"]
        number, count = parent.value[1][0].start_mark.line if len(parent.value) > 1 else first[1].end_mark.line + 1, 0
    else:
        number, count = old[0].start_mark.line, 1
        line_match = _LINE.match(lines[number].rstrip("\n"))
        if line_match is None:
            raise UserError(f"{where} cannot be set: line {number + 1} must be `{path[-1]}: VALUE`")
        if yaml.safe_load(text[old[1].start_mark.index : old[1].end_mark.index]) == value:
            return text
        new = [] if value is None else [f"{line_match['start']} {value}"]
    lines[number : number + count] = [f"{line} # {comment}\n" for line in new]
    return "".join(lines)


def _node(node: Any, path: Path) -> Any:
    for step in path:
        if isinstance(node, yaml.SequenceNode):
            node = node.value[int(step)]
        else:
            node = next((value for key, value in getattr(node, "value", ()) if key.value == step), None)
    return node

"""What the compiling process is asked for, from a Serve config."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.checks.source import read
from apps.common.errors import UserError
from apps.slice.model_config import read_config
from apps.slice.placement import wanted_slice
from apps.slice.topology import Slice, slice_of

_RECORDED = Path(__file__).parent / "models"
"""A config.json for models whose hub asks for an account. What is not published (vision tower, position table) is assumed."""
_TPU_VERSIONS = {"v5e": 5, "v5p": 5, "v6e": 6, "v7x": 7}


@dataclass(frozen=True)
class Request:
    """An engine to build: its arguments, its model's config.json and the slice."""

    engine_kwargs: dict[str, Any]
    model_config: dict[str, Any]
    model_id: str
    on: Slice
    layers: int | None = None
    """Layers that the model is cut to."""

    @property
    def assumed(self) -> bool:
        """Whether the model's config.json is this project's record."""
        return self.model_config == _recorded(self.model_id)

    def plain(self, model_directory: Path) -> dict[str, Any]:
        """What the compiling process gets; it reads the model's config.json from a directory."""
        (model_directory / "config.json").write_text(json.dumps(self.model_config))
        generation = self.on.generation
        return {
            "model": str(model_directory),
            "engine_kwargs": self.engine_kwargs,
            "topology": f"{generation.name}:{self.on.topology}",
            "tpu_version": _TPU_VERSIONS[generation.name],
            "hbm_bytes": generation.usable_bytes,
            "layers": self.layers,
        }


def request_for(config: Path, model: Path | None, topology: str | None, layers: int | None) -> Request:
    """The engine of a Serve config's one model; `model` has its config.json where the config's own is not to be taken.

    Raises:
        UserError: the config cannot be read or has no model on a TPU slice, the topology does not exist, or the model's
            config.json is neither given nor recorded.
    """
    llm_config = _llm_config(config)
    shape = wanted_slice(llm_config)
    if shape is None:
        raise UserError(f"{config}: its model is not on a TPU slice (accelerator_config: {{kind: tpu, topology: 4x4}})")
    engine = {**(llm_config.get("engine_kwargs") or {})}
    if topology:
        shape = slice_of(shape.generation.name, topology)
        if engine.get("tensor_parallel_size"):
            engine["tensor_parallel_size"] = shape.chips
    loading = llm_config["model_loading_config"]
    model_id, source = loading["model_id"], loading.get("model_source")
    if model is None and isinstance(source, str) and (Path(source) / "config.json").is_file():
        model = Path(source)
    model_config = model_config_of(model_id, model)
    layers_there = (model_config.get("text_config") or model_config).get("num_hidden_layers")
    if layers and isinstance(layers_there, int) and layers > layers_there:
        raise UserError(f"--layers is {layers}, but {model_id} has {layers_there}")
    return Request(engine, model_config, model_id, shape, layers)


def model_config_of(model_id: str, model: Path | None) -> dict[str, Any]:
    """What a model's config.json says: of its directory or the file itself, else of the record.

    Raises:
        UserError: it cannot be read, or is neither given nor recorded.
    """
    config = read_config(model) if model else _recorded(model_id)
    if config is None:
        raise UserError(f"{model_id}: its config.json is not on this machine: give --model DIR with the directory that has it")
    return config


def _llm_config(config: Path) -> dict[str, Any]:
    content = read(config).content
    try:
        args = next(app["args"] for app in content["applications"] if "llm_configs" in (app.get("args") or {}))
        llm_config: dict[str, Any] = args["llm_configs"][0]
        llm_config["model_loading_config"]["model_id"]
    except (StopIteration, LookupError, TypeError, AttributeError):
        raise UserError(f"{config}: has no model: scripts/validate.py says what is wrong") from None
    return llm_config


def _recorded(model_id: str) -> dict[str, Any] | None:
    file = _RECORDED / f"{model_id.replace('/', '--')}.json"
    return read_config(file) if file.is_file() else None

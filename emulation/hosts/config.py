"""Make the Serve config that is deployed: one of serve_configs/, with this stack's port and model put in."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from apps.checks.variant import merged
from apps.common.errors import UserError
from apps.slice.topology import Slice
from apps.weights.args import CALLBACK
from emulation.hosts.head import PROJECT_ROOT

LOCAL_CONFIG = PROJECT_ROOT / "serve_configs" / "local.yaml"
TPU_CONFIG = PROJECT_ROOT / "serve_configs" / "gemma.yaml"
_EMULATED = Path(__file__).with_name("emulated.yaml")
_TPU_ENGINE = Path(__file__).with_name("tpu_engine.yaml")


def load(path: Path) -> dict[str, Any]:
    """Read a Serve config. Raises `UserError` if it cannot be read, or has no model of this project's."""
    try:
        config = yaml.safe_load(path.read_text())
        _llm_config(config)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: {error}") from error
    except (LookupError, TypeError, StopIteration):
        raise UserError(f"{path} is not a Serve config with a model: scripts/validate.py lists what is wrong") from None
    return config


def emulated(*, tpu_engine: bool = False) -> dict[str, Any]:
    """The TPU's config, patched for an emulated slice with the simulated engine, or with the slice's own."""
    config: dict[str, Any] = load(TPU_CONFIG)
    for patch in (_EMULATED, _TPU_ENGINE)[: 1 + tpu_engine]:
        config = merged(config, yaml.safe_load(patch.read_text()))
    return config


def served_model(config: dict[str, Any]) -> tuple[str, str]:
    """(model id, model source) of a config's one model; the source is the id where none is given."""
    loading = _llm_config(config)["model_loading_config"]
    return loading["model_id"], loading.get("model_source", loading["model_id"])


def with_slice(config: dict[str, Any], shape: Slice) -> dict[str, Any]:
    """The config with its replica placed on an emulated slice, whatever its engine computes on."""
    asked = {"accelerator_type": shape.generation.accelerator_type, "topology": shape.topology}
    return _with_llm_config(config, {**_llm_config(config), "experimental_configs": {"emulated_slice": asked}})


def with_weights(config: dict[str, Any], url: str, directory: str) -> dict[str, Any]:
    """The config with its weights prefetched from a URL to a directory on each host."""
    llm_config = _llm_config(config)
    callback = {"callback_class": CALLBACK, "callback_kwargs": {"url": url}}
    loading = {**llm_config["model_loading_config"], "model_source": directory}
    with_source = {**llm_config, "model_loading_config": loading, "callback_config": callback}
    env_vars = {**(llm_config.get("runtime_env") or {}).get("env_vars", {}), "VLLM_XLA_CACHE_PATH": f"{directory}-programs"}
    return _with_llm_config(config, {**with_source, "runtime_env": {"env_vars": env_vars}})


def with_port(config: dict[str, Any], port: int) -> dict[str, Any]:
    """The config served on another port; the chat follows."""
    apps = [
        {**app, "args": {**app["args"], "api_url": f"http://127.0.0.1:{port}/v1"}} if "api_url" in app["args"] else app
        for app in config["applications"]
    ]
    return {**config, "http_options": {**config["http_options"], "port": port}, "applications": apps}


def with_guard(config: dict[str, Any], keys_files: Sequence[Path]) -> dict[str, Any]:
    """The config with the guard on, for the keys of these files; the chat then asks its users for one."""
    guard = {"keys_files": [str(file) for file in keys_files]}
    apps = [
        {**app, "args": {**app["args"], "guard": guard}} if app["import_path"] == "apps.llm:build_app" else app
        for app in config["applications"]
    ]
    return {**config, "applications": apps}


def with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The config with the model computed in another data type."""
    llm_config = _llm_config(config)
    return _with_llm_config(config, {**llm_config, "engine_kwargs": {**llm_config["engine_kwargs"], "dtype": dtype}})


def with_model(config: dict[str, Any], model_id: str, source: str, *, own_template: bool) -> dict[str, Any]:
    """The config with another model. A model with a chat template of its own keeps it."""
    llm_config = {**_llm_config(config), "model_loading_config": {"model_id": model_id, "model_source": source}}
    if own_template:
        llm_config["engine_kwargs"] = {k: v for k, v in llm_config["engine_kwargs"].items() if k != "chat_template"}
    return _with_llm_config(config, llm_config)


def has_chat_template(model: Path) -> bool:
    """True when a model directory has a chat template."""
    tokenizer = model / "tokenizer_config.json"
    in_config = tokenizer.is_file() and '"chat_template"' in tokenizer.read_text()
    return in_config or any((model / name).is_file() for name in ("chat_template.jinja", "chat_template.json"))


def _llm_config(config: dict[str, Any]) -> dict[str, Any]:
    return next(app["args"]["llm_configs"][0] for app in config["applications"] if "llm_configs" in app["args"])


def _with_llm_config(config: dict[str, Any], llm_config: dict[str, Any]) -> dict[str, Any]:
    apps = [
        {**app, "args": {**app["args"], "llm_configs": [llm_config]}} if "llm_configs" in app["args"] else app
        for app in config["applications"]
    ]
    return {**config, "applications": apps}

"""Make the Serve config that is deployed: one of serve_configs/, with this stack's port and model put in."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from apps.checks.serve_rules import check_serve_config
from apps.checks.variant import merged
from apps.common.errors import UserError
from apps.slice.topology import Slice
from apps.weights.args import CALLBACK
from emulation.hosts.options import DEFAULT_PORT
from emulation.hosts.preflight import LOOPBACK
from emulation.hosts.user_path import PROJECT_ROOT

LOCAL_CONFIG = PROJECT_ROOT / "serve_configs" / "local.yaml"
TPU_CONFIG = PROJECT_ROOT / "serve_configs" / "gemma.yaml"
_LLM = "apps.llm:build_app"
_EMULATED = Path(__file__).with_name("emulated.yaml")
_TPU_ENGINE = Path(__file__).with_name("tpu_engine.yaml")


def load(path: Path, *, direct_streaming: bool = True) -> dict[str, Any]:
    """Read a Serve config of the user's. Raises `UserError` if it is invalid, or has no model of this project's."""
    config = _on_loopback(_read(path))
    errors = [f for f in check_serve_config(config, direct_streaming=direct_streaming) if f.severity == "error"]
    if errors:
        more = f"; {len(errors) - 1} more: scripts/validate.py {path}" if len(errors) > 1 else ""
        raise UserError(f"{path}: {errors[0]}{more}")
    if not any(_has_model(app) for app in config["applications"]):
        raise UserError(f"{path}: applications: none has a model (import_path {_LLM})")
    return config


def own(path: Path = LOCAL_CONFIG) -> dict[str, Any]:
    """One of this project's own configs."""
    return _read(path)


def _on_loopback(config: Any) -> Any:
    """The config with the host that a local stack has where it names none; Ray's default is every interface."""
    http = config.get("http_options") or {} if isinstance(config, dict) else None
    return {**config, "http_options": {"host": LOOPBACK, **http}} if isinstance(http, dict) else config


def digest(path: Path) -> str:
    """A value that changes with a config's content. Raises `UserError` if it cannot be read."""
    return hashlib.sha256(yaml.safe_dump(_read(path)).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: {error}") from error
    return content


def emulated(*, tpu_engine: bool = False) -> dict[str, Any]:
    """The TPU's config, patched for an emulated slice with the simulated engine, or with the slice's own."""
    config: dict[str, Any] = own(TPU_CONFIG)
    for patch in (_EMULATED, _TPU_ENGINE)[: 1 + tpu_engine]:
        config = merged(config, yaml.safe_load(patch.read_text()))
    return config


def served_model(config: dict[str, Any]) -> tuple[str, str]:
    """(model id, model source) of a config's one model; the source is the id where none is given."""
    loading = _llm_config(config)["model_loading_config"]
    return loading["model_id"], loading.get("model_source", loading["model_id"])


def model_apps(config: dict[str, Any]) -> set[str]:
    """Names of the apps with a model."""
    return {app.get("name", "default") for app in config["applications"] if _has_model(app)}


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
    runtime_env = llm_config.get("runtime_env") or {}
    env_vars = {**(runtime_env.get("env_vars") or {}), "VLLM_XLA_CACHE_PATH": f"{directory}-programs"}
    return _with_llm_config(config, {**with_source, "runtime_env": {**runtime_env, "env_vars": env_vars}})


def with_port(config: dict[str, Any], port: int) -> dict[str, Any]:
    """The config served on another port; a chat that asks this server follows."""
    http = config["http_options"]
    served = f"http://127.0.0.1:{http.get('port', DEFAULT_PORT)}/v1"
    apps = [
        _with_args(app, api_url=f"http://127.0.0.1:{port}/v1") if _args(app).get("api_url") == served else app
        for app in config["applications"]
    ]
    return {**config, "http_options": {**http, "port": port}, "applications": apps}


def with_guard(config: dict[str, Any], keys_files: Sequence[Path]) -> dict[str, Any]:
    """The config with the guard on, for the keys of these files; the chat then asks its users for one."""
    guard = {"keys_files": [str(file) for file in keys_files]}
    return _with_model_apps(config, lambda app: _with_args(app, guard={**(_args(app).get("guard") or {}), **guard}))


def with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The config with its models computed in this data type where it names none."""

    def changed(llm_config: dict[str, Any]) -> dict[str, Any]:
        return {**llm_config, "engine_kwargs": {"dtype": dtype, **(llm_config.get("engine_kwargs") or {})}}

    return _with_model_apps(config, lambda app: _with_args(app, llm_configs=[changed(c) for c in _args(app)["llm_configs"]]))


def with_model(config: dict[str, Any], model_id: str, source: str, *, own_template: bool) -> dict[str, Any]:
    """The config with another model. A model with a chat template of its own keeps it."""
    llm_config = {**_llm_config(config), "model_loading_config": {"model_id": model_id, "model_source": source}}
    if own_template:
        engine = llm_config.get("engine_kwargs") or {}
        llm_config["engine_kwargs"] = {k: v for k, v in engine.items() if k != "chat_template"}
    return _with_llm_config(config, llm_config)


def has_chat_template(model: Path) -> bool:
    """True when a model directory has a chat template."""
    tokenizer = model / "tokenizer_config.json"
    in_config = tokenizer.is_file() and '"chat_template"' in tokenizer.read_text()
    return in_config or any((model / name).is_file() for name in ("chat_template.jinja", "chat_template.json"))


def _has_model(app: dict[str, Any]) -> bool:
    return app.get("import_path") == _LLM


def _args(app: dict[str, Any]) -> dict[str, Any]:
    return app.get("args") or {}


def _with_args(app: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**app, "args": {**_args(app), **changes}}


def _llm_config(config: dict[str, Any]) -> dict[str, Any]:
    """The first model's."""
    llm_config: dict[str, Any] = next(_args(app)["llm_configs"][0] for app in config["applications"] if _has_model(app))
    return llm_config


def _with_llm_config(config: dict[str, Any], llm_config: dict[str, Any]) -> dict[str, Any]:
    """The config with its first model replaced."""
    first = _llm_config(config)
    return _with_model_apps(
        config,
        lambda app: _with_args(app, llm_configs=[llm_config if each is first else each for each in _args(app)["llm_configs"]]),
    )


def _with_model_apps(config: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    return {**config, "applications": [change(app) if _has_model(app) else app for app in config["applications"]]}

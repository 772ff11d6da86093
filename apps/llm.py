"""The model as a Ray Serve app: OpenAI-compatible API at `/`, the same app on a laptop CPU and on a TPU slice.

Ray Serve LLM does the work; this module checks the arguments and picks the HTTP path (direct streaming or the classic ingress).
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from ray import serve
from ray.serve import Application

from apps.engine.direct import DirectServer
from apps.errors import UserError
from apps.settings import direct_streaming
from apps.slice.replica import on_slice
from apps.weights.cache import resolve_source

TEMPLATES = Path(__file__).parent / "templates"
_ACCELERATOR_KEYS = {"cpu": {"kind"}, "tpu": {"kind", "topology"}}


class LLMArgs(BaseModel):
    """Arguments of the app in a Serve config. `llm_configs` are Ray's own `LLMConfig`s; direct streaming takes exactly one."""

    model_config = ConfigDict(extra="forbid")

    llm_configs: list[dict[str, Any]] = Field(min_length=1)

    @field_validator("llm_configs")
    @classmethod
    def _accelerator_is_known(cls, configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for config in configs:
            check_accelerator(config.get("accelerator_config"))
        return configs


def check_accelerator(accelerator: Any) -> None:
    """Raise ValueError unless it is `{kind: cpu}` or `{kind: tpu, topology: AxB}`, the two that the apps serve on.

    Ray ignores unknown keys here: `topolgy: 4x4` would mean sixteen separate chips instead of a slice, and without any
    accelerator_config it would wait for a GPU.
    """
    wanted = "give {kind: cpu} or {kind: tpu, topology: 4x4}"
    if not isinstance(accelerator, dict) or accelerator.get("kind") not in _ACCELERATOR_KEYS:
        raise ValueError(f"accelerator_config is {accelerator!r}: {wanted}")
    needed = _ACCELERATOR_KEYS[accelerator["kind"]]
    if unknown := sorted(set(accelerator) - needed):
        raise ValueError(f"accelerator_config: unknown key {unknown[0]!r}: {wanted}")
    if missing := sorted(needed - set(accelerator)):
        raise ValueError(f"accelerator_config: {missing[0]!r} is missing: {wanted}")


def build_app(args: LLMArgs) -> Application:
    """Build the app. Raises `UserError` or a pydantic error, which `serve status` shows as the app's message."""
    configs = [_prepare(config) for config in args.llm_configs]
    if not direct_streaming():
        return _classic_app(configs)
    if len(configs) != 1:
        raise UserError(
            f"llm_configs has {len(configs)} models: direct streaming serves exactly one per app; "
            "give one, or start Ray without RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING"
        )
    return _direct_app(configs[0])


def _direct_app(config: dict[str, Any]) -> Application:
    # HAProxy balances over the replicas by itself, so Ray's separate router (one more hop per request, one more process that
    # imports vLLM) is left out; Serve's late-bound ingress makes vLLM's own server the app.
    engine = config["engine_kwargs"]
    engine["middleware"] = [*(engine.get("middleware") or []), "apps.limits.BodyLimit"]
    options = dict(config.get("deployment_config") or {})
    actor_options = dict(options.pop("ray_actor_options", None) or {})
    actor_options["runtime_env"] = {**(actor_options.get("runtime_env") or {}), **(config.get("runtime_env") or {})}
    name = "LLMServer:" + config["model_loading_config"]["model_id"].replace("/", "--").replace(".", "_")
    deployment = serve.deployment(serve.ingress()(DirectServer), name=name, ray_actor_options=actor_options, **options)
    return deployment.bind(config)


def _classic_app(configs: list[dict[str, Any]]) -> Application:
    from ray.serve.llm import build_openai_app

    from apps.engine.server import Ingress, Server, make_llm_config

    llm_configs = [make_llm_config(config) for config in configs]
    for llm_config in llm_configs:
        llm_config.server_cls = Server
        # Ray batches a stream's chunks for 50 ms, which is all that a reader notices (ray#59681).
        llm_config.experimental_configs.setdefault("stream_batching_interval_ms", 0)
    return build_openai_app({"llm_configs": llm_configs, "ingress_cls_config": {"ingress_cls": Ingress}})


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """The config with what it names resolved on this machine: the weights' directory, the chat template's file."""
    engine = dict(config.get("engine_kwargs") or {})
    template = engine.get("chat_template")
    if template and not Path(template).is_absolute():
        engine["chat_template"] = str(_template(template))
    loading = dict(config.get("model_loading_config") or {})
    if "model_id" not in loading:
        raise UserError("model_loading_config.model_id is missing: give the name that clients call the model by")
    source = loading.get("model_source")
    if isinstance(source, str) and "://" not in source:
        loading["model_source"] = resolve_source(source)
    return on_slice({**config, "engine_kwargs": engine, "model_loading_config": loading})


def _template(name: str) -> Path:
    path = TEMPLATES / name
    if not path.is_file():
        known = ", ".join(sorted(p.name for p in TEMPLATES.iterdir()))
        raise UserError(f"chat_template {name!r}: not a template of this project ({known}); give one, or an absolute path")
    return path

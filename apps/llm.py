"""The model as a Ray Serve app: OpenAI-compatible API at `/`, the same app on a laptop CPU and on a TPU slice.

Ray Serve LLM does the work; this module checks the arguments and picks the HTTP path (direct streaming or the classic ingress).
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from ray import serve
from ray.serve import Application

from apps.imports import without_gc

with without_gc():
    from ray.serve.llm import LLMConfig, build_llm_deployment, build_openai_app

from apps.engine.server import Ingress, LocalWeights, Server
from apps.errors import UserError
from apps.settings import direct_streaming
from apps.weights.cache import resolve_source

TEMPLATES = Path(__file__).parent / "templates"
_ACCELERATOR_KEYS = {"cpu": {"kind"}, "gpu": {"kind"}, "tpu": {"kind", "topology"}}


class LLMArgs(BaseModel):
    """Arguments of the app in a Serve config. `llm_configs` are Ray's own `LLMConfig`s; direct streaming takes exactly one."""

    model_config = ConfigDict(extra="forbid")

    llm_configs: list[dict[str, Any]] = Field(min_length=1)

    @field_validator("llm_configs")
    @classmethod
    def _known_accelerator_keys(cls, configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        # Ray ignores unknown keys here: `topolgy: 4x4` would mean sixteen separate chips instead of a slice.
        for config in configs:
            accelerator = config.get("accelerator_config") or {}
            allowed = _ACCELERATOR_KEYS.get(accelerator.get("kind", ""), set(accelerator))
            if unknown := sorted(set(accelerator) - allowed):
                raise ValueError(f"accelerator_config: unknown key {unknown[0]!r}, allowed: {', '.join(sorted(allowed))}")
        return configs


def build_app(args: LLMArgs) -> Application:
    """Build the app. Raises `UserError` or a pydantic error, which `serve status` shows as the app's message."""
    configs = [_prepare(config) for config in args.llm_configs]
    if not direct_streaming():
        return build_openai_app(
            {"llm_configs": [_classic(config) for config in configs], "ingress_cls_config": {"ingress_cls": Ingress}}
        )
    if len(configs) != 1:
        raise UserError(
            f"llm_configs has {len(configs)} models: direct streaming serves exactly one per app; "
            "give one, or start Ray without RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING"
        )
    # HAProxy balances over the replicas by itself, so Ray's separate router (one more hop per request, one more process
    # that imports vLLM) is left out; Serve's late-bound ingress makes vLLM's own server the app.
    middleware = configs[0].engine_kwargs.get("middleware") or []
    configs[0].engine_kwargs["middleware"] = [*middleware, "apps.limits.BodyLimit"]
    return build_llm_deployment(configs[0], deployment_cls=serve.ingress()(Server))


def _prepare(config: dict[str, Any]) -> LLMConfig:
    config = {**config, "engine_kwargs": dict(config.get("engine_kwargs") or {})}
    template = config["engine_kwargs"].get("chat_template")
    if template and not Path(template).is_absolute():
        config["engine_kwargs"]["chat_template"] = str(_template(template))
    loading = dict(config.get("model_loading_config") or {})
    source = loading.get("model_source")
    if isinstance(source, str) and "://" not in source:
        loading["model_source"] = resolve_source(source)
    config["model_loading_config"] = loading
    llm_config = LLMConfig(**config)
    if Path(str(llm_config.model_loading_config.model_source)).is_dir():
        _use_local_directory(llm_config)
    return llm_config


def _template(name: str) -> Path:
    path = TEMPLATES / name
    if not path.is_file():
        known = ", ".join(sorted(p.name for p in TEMPLATES.iterdir()))
        raise UserError(f"chat_template {name!r}: not a template of this project ({known}); give one, or an absolute path")
    return path


def _use_local_directory(llm_config: LLMConfig) -> None:
    if llm_config.callback_config.callback_class is type(llm_config.callback_config)().callback_class:
        llm_config.callback_config.callback_class = LocalWeights
    # Ray learns what the model can do only when the engine starts; the classic ingress answers /v1/models before that.
    llm_config.apply_checkpoint_info(str(llm_config.model_loading_config.model_source))


def _classic(llm_config: LLMConfig) -> LLMConfig:
    llm_config.server_cls = Server
    # Ray batches a stream's chunks for 50 ms, which is all that a reader notices (ray#59681).
    llm_config.experimental_configs.setdefault("stream_batching_interval_ms", 0)
    return llm_config

"""Check the arguments of the LLM app and build it for the HTTP path that Ray was started with.

Either direct streaming, where the engine's own server answers, or Ray's ingress (classic).
"""

import logging
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

from apps.checks.findings import below
from apps.checks.guard_rules import NEEDS_GUARD, check_guard
from apps.checks.llm_rules import TEMPLATES, check_llm_configs, max_replicas
from apps.common.errors import UserError
from apps.common.loopback import open_host
from apps.common.settings import direct_streaming
from apps.guard.engines import flavour_of
from apps.guard.settings import GuardArgs, ReplicaGuard, replica_guard
from apps.llm.args import LLMArgs
from apps.llm.direct import DirectServer
from apps.slice.placement import on_slice
from apps.weights.args import asks_for_prefetch
from apps.weights.cache import resolve_source

logger = logging.getLogger("ray.serve")


def build(args: LLMArgs) -> Application:
    """Build the app. Raises as `apps.llm.build_app`."""
    _check(args)
    configs = [_prepare(config) for config in args.llm_configs]
    return _direct_app(configs[0], args.guard) if direct_streaming() else _classic_app(configs, args.guard)


def _check(args: LLMArgs) -> None:
    """Run the checks of `scripts/validate.py` on a config that may have been deployed without them."""
    findings = below(("llm_configs",), check_llm_configs(args.llm_configs, direct_streaming=direct_streaming()))
    findings += check_guard(args.model_dump(), direct_streaming=direct_streaming())
    for finding in findings:
        if finding.severity == "warning":
            logger.warning(str(finding))
    errors = [str(finding) for finding in findings if finding.severity == "error"]
    if args.guard is None and (host := open_host()):
        errors.append(f"guard: {NEEDS_GUARD.format(host=host)}")
    if errors:
        raise UserError("\n".join(errors))


def _direct_app(config: dict[str, Any], guard: GuardArgs | None) -> Application:
    # HAProxy balances over the replicas by itself, so Ray's separate router (one more hop per request, one more process that
    # imports vLLM) is left out; Serve's late-bound ingress makes vLLM's own server the app.
    options = dict(config.get("deployment_config") or {})
    _, replicas = max_replicas(options)
    actor_options = dict(options.pop("ray_actor_options", None) or {})
    actor_options["runtime_env"] = {**(actor_options.get("runtime_env") or {}), **(config.get("runtime_env") or {})}
    name = "LLMServer:" + config["model_loading_config"]["model_id"].replace("/", "--").replace(".", "_")
    deployment = serve.deployment(serve.ingress()(DirectServer), name=name, ray_actor_options=actor_options, **options)
    return deployment.bind(config, _guard_settings(guard, [config], replicas, engines=1))


def _classic_app(configs: list[dict[str, Any]], guard: GuardArgs | None) -> Application:
    from ray.serve.llm import build_openai_app

    from apps.llm.server import Ingress, Server, make_llm_config

    llm_configs = [make_llm_config(config) for config in configs]
    for llm_config in llm_configs:
        llm_config.server_cls = Server
        # Ray batches a stream's chunks for 50 ms, which is all that a reader notices (ray#59681).
        llm_config.experimental_configs.setdefault("stream_batching_interval_ms", 0)
    engines = sum(max_replicas(config.get("deployment_config") or {})[1] for config in configs)
    settings = _guard_settings(guard, configs, 1, engines)  # Ray's ingress is one
    ingress = {"ingress_cls": Ingress, "ingress_extra_kwargs": {"guard": settings}}
    return build_openai_app({"llm_configs": llm_configs, "ingress_cls_config": ingress})


def _guard_settings(guard: GuardArgs | None, configs: list[dict[str, Any]], replicas: int, engines: int) -> ReplicaGuard:
    engine, model = configs[0]["engine_kwargs"], configs[0]["model_loading_config"].get("model_source")
    directory = model if isinstance(model, str) else None
    policies = {config["engine_kwargs"]["scheduling_policy"] for config in configs}
    engine = {**engine, "scheduling_policy": "priority" if policies == {"priority"} else "fcfs"}
    return replica_guard(guard, engine, replicas, engines, model=directory, flavour=flavour_of(configs))


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """The config with what it names resolved on this machine: the weights' directory, the chat template's file.

    Only xgrammar compiles grammars, and the guard tries each one first. By vLLM's default another library takes what xgrammar
    refuses, and the first request with a grammar chooses the library for all that follow. Prompts that wait in the engine are
    computed by priority, which the guard sets: first come, first served but for that.
    """
    engine = {"scheduling_policy": "priority", **(config.get("engine_kwargs") or {})}
    engine["structured_outputs_config"] = {"backend": "xgrammar", **(engine.get("structured_outputs_config") or {})}
    template = engine.get("chat_template")
    if template and not Path(template).is_absolute():
        engine["chat_template"] = str(TEMPLATES / template)
    loading = dict(config.get("model_loading_config") or {})
    source = loading.get("model_source")
    if isinstance(source, str) and "://" not in source and not asks_for_prefetch(config):
        loading["model_source"] = resolve_source(source)
    return on_slice({**config, "engine_kwargs": engine, "model_loading_config": loading})

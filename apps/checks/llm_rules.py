"""One LLM config of an app's `llm_configs`: everything in it that Ray and vLLM would ignore, or refuse much later."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apps.checks import slice_rules
from apps.checks.arguments import against_model
from apps.checks.findings import Finding, below, closest, unknown_key
from apps.checks.known import schema
from apps.checks.schema import against
from apps.common.errors import UserError
from apps.slice.topology import GENERATIONS, Slice, slice_of
from apps.weights.args import PrefetchArgs, asks_for_prefetch, prefetch_args

TEMPLATES = Path(__file__).parents[1] / "llm" / "templates"
_ACCELERATOR_KEYS = {"cpu": {"kind"}, "tpu": {"kind", "topology"}}
_EXPERIMENTAL = {"stream_batching_interval_ms", "slice_timeout_s", "emulated_slice"}
_SERVED_BY_RAY = {"model": "model_loading_config.model_source", "served_model_name": "model_loading_config.model_id"}


def check_llm_configs(configs: list[Any], *, direct_streaming: bool, slices: int | None = None) -> list[Finding]:
    """All findings in an app's `llm_configs`; `slices` is how many the cluster has, if that is known."""
    found = [one for index, config in enumerate(configs) for one in below((index,), check_llm_config(config))]
    if direct_streaming and len(configs) != 1:
        message = (
            f"has {len(configs)} models: direct streaming serves exactly one per app; give one, or start Ray without "
            "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING"
        )
        found.append(Finding((), message))
    if direct_streaming:
        found += [one for index, config in enumerate(configs) for one in below((index,), _ignored_by_direct_streaming(config))]
    if slices is not None:
        found += _enough_slices([one for one in configs if isinstance(one, Mapping)], slices)
    return found


def _ignored_by_direct_streaming(config: Any) -> list[Finding]:
    """Settings that have no effect where HAProxy balances over the replicas and vLLM's own server answers."""
    deployment = config.get("deployment_config") if isinstance(config, Mapping) else None
    given = {
        ("deployment_config", "request_router_config"): isinstance(deployment, Mapping)
        and deployment.get("request_router_config"),
        ("lora_config",): isinstance(config, Mapping) and config.get("lora_config"),
    }
    message = (
        "is ignored with direct streaming: leave it out, or start Ray without RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING (--classic)"
    )
    return [Finding(path, message) for path, value in given.items() if value]


def check_llm_config(config: Any) -> list[Finding]:
    """All findings in one LLM config, with paths from its top."""
    found = against(schema("llm"), config, "Ray refuses it, or ignores it in a nested part")
    if not isinstance(config, Mapping):
        return found
    engine = config.get("engine_kwargs") or {}
    accelerator, shape = _accelerator(config)
    found += accelerator
    if isinstance(engine, Mapping):
        found += below(("engine_kwargs",), _engine(engine))
        found += _settings_that_clash(config, engine)
        if shape and not [one for one in found if one.severity == "error"]:
            found += slice_rules.check(config, engine, shape)
    return found + _strange_experiments(config) + _weights(config)


def _accelerator(config: Mapping[str, Any]) -> tuple[list[Finding], Slice | None]:
    accelerator, wanted = config.get("accelerator_config"), "{kind: cpu} or {kind: tpu, topology: 4x4}"
    path: tuple[str, ...] = ("accelerator_config",)
    if not isinstance(accelerator, Mapping) or accelerator.get("kind") not in list(_ACCELERATOR_KEYS):
        why = "Ray would take it for a GPU, and wait for one" if accelerator is None else "the apps serve on cpu and tpu only"
        found = [Finding(path, f"is {accelerator!r}: {why}", value=accelerator, allowed=wanted)]
        strange = (
            [key for key in accelerator if key not in _ACCELERATOR_KEYS["tpu"]] if isinstance(accelerator, Mapping) else []
        )
        return found + [unknown_key(path, str(key), _ACCELERATOR_KEYS["tpu"], "Ray ignores it") for key in strange], None
    needed = _ACCELERATOR_KEYS[accelerator["kind"]]
    found = [unknown_key(path, str(k), needed, "Ray ignores it") for k in accelerator if k not in needed]
    found += [Finding((*path, k), f"{k!r} is missing", allowed=wanted) for k in needed if k not in accelerator]
    kind, accelerator_type = accelerator["kind"], config.get("accelerator_type")
    if kind == "cpu":
        if accelerator_type is not None:
            found.append(Finding(("accelerator_type",), f"is {accelerator_type!r}: a model on the CPU has none; leave it out"))
        return found, None
    if accelerator_type not in (known := [one.accelerator_type for one in GENERATIONS.values()]):
        message = f"is {accelerator_type!r}, which is no TPU that Ray knows"
        hint = closest(f"TPU-{accelerator_type}", known) or closest(accelerator_type, known)
        return [*found, Finding(("accelerator_type",), message, allowed=", ".join(known), did_you_mean=hint)], None
    if found:
        return found, None
    try:
        return [], slice_of(str(accelerator_type), str(accelerator["topology"]))
    except UserError as error:
        return [Finding((*path, "topology"), str(error), value=accelerator["topology"])], None


def _engine(engine: Mapping[str, Any]) -> list[Finding]:
    found = [
        Finding((key,), f"is not for you to set: Ray takes it from {source}", value=engine[key])
        for key, source in _SERVED_BY_RAY.items()
        if key in engine
    ]
    rest = {key: value for key, value in engine.items() if key not in _SERVED_BY_RAY}
    found += against(schema("engine"), rest, "vLLM has no such argument")
    utilization = engine.get("gpu_memory_utilization")
    if isinstance(utilization, int | float) and not 0 < utilization <= 1:
        found.append(Finding(("gpu_memory_utilization",), f"is {utilization}", value=utilization, allowed="above 0, at most 1"))
    for key in ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "tensor_parallel_size", "pipeline_parallel_size"):
        if isinstance(value := engine.get(key), int) and value < 1:
            found.append(Finding((key,), f"is {value}", value=value, allowed="1 or more"))
    if engine.get("enable_auto_tool_choice") and not engine.get("tool_call_parser"):
        found.append(Finding(("enable_auto_tool_choice",), "needs a tool_call_parser, such as gemma4"))
    template = engine.get("chat_template")
    if isinstance(template, str) and not Path(template).is_absolute() and not (TEMPLATES / template).is_file():
        known = sorted(path.name for path in TEMPLATES.iterdir())
        message = f"{template!r} is no template of this project, nor an absolute path"
        found.append(Finding(("chat_template",), message, allowed=", ".join(known), did_you_mean=closest(template, known)))
    return found


def _settings_that_clash(config: Mapping[str, Any], engine: Mapping[str, Any]) -> list[Finding]:
    found = []
    if engine.get("disable_log_stats") and config.get("log_engine_metrics", True):
        message = "contradicts log_engine_metrics, which is true unless set: set that to false, or leave this out"
        found.append(Finding(("engine_kwargs", "disable_log_stats"), message))
    images = (engine.get("limit_mm_per_prompt") or {}) if isinstance(engine.get("limit_mm_per_prompt"), Mapping) else {}
    on_tpu = isinstance(one := config.get("accelerator_config"), Mapping) and one.get("kind") == "tpu"
    if on_tpu and any(images.values()) and not engine.get("disable_chunked_mm_input"):
        message = "must be true: vLLM TPU needs all tokens of an image in one step, and fails at the first image otherwise"
        found.append(Finding(("engine_kwargs", "disable_chunked_mm_input"), message))
    return found


def _weights(config: Mapping[str, Any]) -> list[Finding]:
    """The prefetch's own arguments, and a directory that it can fill."""
    callback, loading = config.get("callback_config"), config.get("model_loading_config")
    if not isinstance(callback, Mapping) or not isinstance(loading, Mapping) or not asks_for_prefetch(config):
        return []
    found = below(("callback_config", "callback_kwargs"), against_model(PrefetchArgs, callback.get("callback_kwargs") or {}))
    source = loading.get("model_source")
    streams = not found and prefetch_args(config).mode == "stream"
    if not isinstance(source, str) or (not streams and not source.startswith("/")):
        path = ("model_loading_config", "model_source")
        message = f"is {source!r}: the prefetch needs a directory on the hosts' disks"
        found.append(Finding(path, message, value=source, allowed="an absolute path, such as /weights/gemma-4-31b-it"))
    return found


def _strange_experiments(config: Mapping[str, Any]) -> list[Finding]:
    experiments, path = config.get("experimental_configs"), ("experimental_configs",)
    strange = [key for key in experiments if key not in _EXPERIMENTAL] if isinstance(experiments, Mapping) else []
    return [unknown_key(path, str(key), _EXPERIMENTAL, "nobody reads it") for key in strange]


def most_replicas(deployment: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """(the key that says it, how many replicas a deployment may have); 1 where that is left to Ray."""
    key: tuple[str, ...] = ("num_replicas",)
    replicas = deployment.get("num_replicas", 1)
    if isinstance(scaling := deployment.get("autoscaling_config"), Mapping) and "max_replicas" in scaling:
        key, replicas = ("autoscaling_config", "max_replicas"), scaling["max_replicas"]
    return key, replicas if isinstance(replicas, int) else 1


def _enough_slices(configs: list[Mapping[str, Any]], slices: int) -> list[Finding]:
    """Each replica on TPU takes a slice of its own."""
    found, wanted = [], 0
    for index, config in enumerate(configs):
        deployment = config.get("deployment_config")
        accelerator = config.get("accelerator_config")
        if not isinstance(deployment, Mapping) or not isinstance(accelerator, Mapping) or accelerator.get("kind") != "tpu":
            continue
        path = (index, "deployment_config")
        key, replicas = most_replicas(deployment)
        wanted += replicas
        if wanted > slices:
            message = f"{wanted} replicas need {wanted} slices, and the cluster has {slices}: the others would wait for ever"
            found.append(Finding((*path, *key), message, value=replicas))
        elif deployment.get("max_surge_percent") and wanted == slices:
            message = "a new version could not start beside the old one, as no slice is free: set it to 0"
            found.append(Finding((*path, "max_surge_percent"), message, "warning", deployment["max_surge_percent"]))
    return found

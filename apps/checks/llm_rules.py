"""Check the LLM configs of an app: find everything in them that Ray and vLLM would ignore, or refuse much later."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apps.checks import slice_rules
from apps.checks.arguments import against_model
from apps.checks.findings import Finding, below, closest, mapping, unknown_key
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
    findings = [finding for index, config in enumerate(configs) for finding in below((index,), check_llm_config(config))]
    if direct_streaming and len(configs) != 1:
        message = (
            f"has {len(configs)} models: direct streaming serves exactly one per app; give one, or start Ray without "
            "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING"
        )
        findings.append(Finding((), message))
    if direct_streaming:
        for index, config in enumerate(configs):
            findings += below((index,), _ignored_by_direct_streaming(config))
    if slices is not None:
        findings += _enough_slices([config for config in configs if isinstance(config, Mapping)], slices)
    return findings


def _ignored_by_direct_streaming(config: Any) -> list[Finding]:
    """Find settings that have no effect where HAProxy balances over the replicas and vLLM's own server answers."""
    deployment = mapping(mapping(config).get("deployment_config"))
    given = {
        ("deployment_config", "request_router_config"): deployment.get("request_router_config"),
        ("lora_config",): mapping(config).get("lora_config"),
    }
    message = (
        "is ignored with direct streaming: leave it out, or start Ray without RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING (--classic)"
    )
    return [Finding(path, message) for path, value in given.items() if value]


def check_llm_config(config: Any) -> list[Finding]:
    """All findings in one LLM config, with paths from its top."""
    findings = against(schema("llm"), config, "Ray refuses it, or ignores it in a nested part")
    if not isinstance(config, Mapping):
        return findings
    engine = mapping(config.get("engine_kwargs"))
    accelerator, shape = _accelerator(config)
    findings += [*accelerator, *below(("engine_kwargs",), _engine(engine)), *_settings_that_clash(config, engine)]
    if shape and not any(finding.severity == "error" for finding in findings):
        findings += slice_rules.check(config, engine, shape)
    return findings + _strange_experiments(config) + _weights(config)


def _accelerator(config: Mapping[str, Any]) -> tuple[list[Finding], Slice | None]:
    accelerator, wanted = config.get("accelerator_config"), "{kind: cpu} or {kind: tpu, topology: 4x4}"
    path: tuple[str, ...] = ("accelerator_config",)
    kind = mapping(accelerator).get("kind")
    needed = _ACCELERATOR_KEYS["cpu" if kind == "cpu" else "tpu"]
    findings = [unknown_key(path, str(k), needed, "Ray ignores it") for k in mapping(accelerator) if k not in needed]
    if not isinstance(accelerator, Mapping) or kind not in list(_ACCELERATOR_KEYS):
        why = "Ray would take it for a GPU, and wait for one" if accelerator is None else "the apps serve on cpu and tpu only"
        return [Finding(path, f"is {accelerator!r}: {why}", value=accelerator, allowed=wanted), *findings], None
    findings += [Finding((*path, k), f"{k!r} is missing", allowed=wanted) for k in needed if k not in accelerator]
    accelerator_type = config.get("accelerator_type")
    if kind == "cpu":
        if accelerator_type is not None:
            message = f"is {accelerator_type!r}: a model on the CPU has none; leave it out"
            findings.append(Finding(("accelerator_type",), message))
        return findings, None
    if accelerator_type not in (known := [generation.accelerator_type for generation in GENERATIONS.values()]):
        message = f"is {accelerator_type!r}, which is not a TPU that Ray knows"
        hint = closest(f"TPU-{accelerator_type}", known) or closest(accelerator_type, known)
        return [*findings, Finding(("accelerator_type",), message, allowed=", ".join(known), did_you_mean=hint)], None
    if findings:
        return findings, None
    try:
        return [], slice_of(str(accelerator_type), str(accelerator["topology"]))
    except UserError as error:
        return [Finding((*path, "topology"), str(error), value=accelerator["topology"])], None


def _engine(engine: Mapping[str, Any]) -> list[Finding]:
    findings = [
        Finding((key,), f"must not be set: Ray takes it from {source}", value=engine[key])
        for key, source in _SERVED_BY_RAY.items()
        if key in engine
    ]
    rest = {key: value for key, value in engine.items() if key not in _SERVED_BY_RAY}
    findings += against(schema("engine"), rest, "vLLM has no such argument")
    utilization = engine.get("gpu_memory_utilization")
    if isinstance(utilization, int | float) and not 0 < utilization <= 1:
        findings.append(
            Finding(("gpu_memory_utilization",), f"is {utilization}", value=utilization, allowed="above 0, at most 1")
        )
    for key in ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "tensor_parallel_size", "pipeline_parallel_size"):
        if isinstance(value := engine.get(key), int) and value < 1:
            findings.append(Finding((key,), f"is {value}", value=value, allowed="1 or more"))
    if engine.get("enable_auto_tool_choice") and not engine.get("tool_call_parser"):
        findings.append(Finding(("enable_auto_tool_choice",), "needs a tool_call_parser, such as gemma4"))
    template = engine.get("chat_template")
    if isinstance(template, str) and not Path(template).is_absolute() and not (TEMPLATES / template).is_file():
        known = sorted(path.name for path in TEMPLATES.iterdir())
        message = f"{template!r} is neither a template of this project nor an absolute path"
        findings.append(Finding(("chat_template",), message, allowed=", ".join(known), did_you_mean=closest(template, known)))
    return findings


def _settings_that_clash(config: Mapping[str, Any], engine: Mapping[str, Any]) -> list[Finding]:
    findings = []
    if engine.get("disable_log_stats") and config.get("log_engine_metrics", True):
        message = "contradicts log_engine_metrics, which is true unless set: set that to false, or leave this out"
        findings.append(Finding(("engine_kwargs", "disable_log_stats"), message))
    has_images = any(mapping(engine.get("limit_mm_per_prompt")).values())
    if _is_on_tpu(config) and has_images and not engine.get("disable_chunked_mm_input"):
        message = "must be true: vLLM TPU needs all tokens of an image in one step, and fails at the first image otherwise"
        findings.append(Finding(("engine_kwargs", "disable_chunked_mm_input"), message))
    return findings


def _is_on_tpu(config: Mapping[str, Any]) -> bool:
    return bool(mapping(config.get("accelerator_config")).get("kind") == "tpu")


def _weights(config: Mapping[str, Any]) -> list[Finding]:
    """Check the prefetch's own arguments, and that there is a directory that it can fill."""
    callback, loading = config.get("callback_config"), config.get("model_loading_config")
    if not isinstance(callback, Mapping) or not isinstance(loading, Mapping) or not asks_for_prefetch(config):
        return []
    findings = below(("callback_config", "callback_kwargs"), against_model(PrefetchArgs, callback.get("callback_kwargs") or {}))
    source = loading.get("model_source")
    streams = not findings and prefetch_args(config).mode == "stream"
    if not isinstance(source, str) or (not streams and not source.startswith("/")):
        path = ("model_loading_config", "model_source")
        message = f"is {source!r}: the prefetch needs a directory on the hosts' disks"
        findings.append(Finding(path, message, value=source, allowed="an absolute path, such as /weights/gemma-4-31b-it"))
    return findings


def _strange_experiments(config: Mapping[str, Any]) -> list[Finding]:
    strange = [str(key) for key in mapping(config.get("experimental_configs")) if key not in _EXPERIMENTAL]
    return [unknown_key(("experimental_configs",), key, _EXPERIMENTAL, "nobody reads it") for key in strange]


def max_replicas(deployment: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """(the key that sets it, how many replicas a deployment may have); 1 where that is left to Ray."""
    key: tuple[str, ...] = ("num_replicas",)
    replicas = deployment.get("num_replicas", 1)
    if "max_replicas" in (scaling := mapping(deployment.get("autoscaling_config"))):
        key, replicas = ("autoscaling_config", "max_replicas"), scaling["max_replicas"]
    return key, replicas if isinstance(replicas, int) else 1


def _enough_slices(configs: list[Mapping[str, Any]], slices: int) -> list[Finding]:
    """Check that each replica on TPU has a slice of its own."""
    findings, wanted = [], 0
    for index, config in enumerate(configs):
        deployment = config.get("deployment_config")
        if not isinstance(deployment, Mapping) or not _is_on_tpu(config):
            continue
        path = (index, "deployment_config")
        key, replicas = max_replicas(deployment)
        wanted += replicas
        if wanted > slices:
            message = f"{wanted} replicas need {wanted} slices, but the cluster has {slices}: the others would wait for ever"
            findings.append(Finding((*path, *key), message, value=replicas))
        elif deployment.get("max_surge_percent") and wanted == slices:
            message = "a new version could not start beside the old one, because no slice is free: set it to 0"
            findings.append(Finding((*path, "max_surge_percent"), message, "warning", deployment["max_surge_percent"]))
    return findings

"""Do the spec and the Serve config say the same? Slice, model and directories are in both, as each is needed in both."""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from apps.checks.findings import Finding, Path
from kuberay.manifests import pods
from kuberay.spec import Spec

_LLM = "apps.llm:build_app"
_CACHE_VARIABLE = "VLLM_XLA_CACHE_PATH"


def check(spec: Spec, serve_config: Mapping[str, Any]) -> list[Finding]:
    """Findings in a Serve config that is right by itself, with paths in it."""
    found = _open_to_hosts(serve_config)
    configs = [
        (("applications", number, "args", "llm_configs", index), config)
        for number, app in enumerate(serve_config.get("applications") or [])
        if app.get("import_path") == _LLM
        for index, config in enumerate(app["args"]["llm_configs"])
    ]
    for path, config in configs:
        found += [Finding((*path, *one.path), one.message, one.severity, one.value, one.allowed) for one in _llm(spec, config)]
    if spec.api_keys is None:
        found += [_no_keys(path, file) for path, file in _keys_files(serve_config)]
    slices = sum(_replicas(config) for _, config in configs if (config.get("accelerator_config") or {}).get("kind") == "tpu")
    if slices > spec.slices.count:
        message = f"its replicas take {slices} slices, and the spec has {spec.slices.count} (slices.count)"
        found.append(Finding(("applications",), message))
    return found


def check_memory(spec: Spec) -> list[Finding]:
    """Whether a host's pod has the memory for what it keeps there."""
    problem = pods.memory_needed(spec)
    return [Finding(("slices", "memory"), problem, value=spec.slices.memory)] if problem else []


def _llm(spec: Spec, config: Mapping[str, Any]) -> list[Finding]:
    accelerator = config.get("accelerator_config") or {}
    if accelerator.get("kind") != "tpu":
        return [Finding(("accelerator_config", "kind"), "is not tpu: the cluster's hosts are TPU hosts", allowed="tpu")]
    shape, loading = spec.slices.shape, config["model_loading_config"]
    cache = ((config.get("runtime_env") or {}).get("env_vars") or {}).get(_CACHE_VARIABLE)
    places = [
        (("accelerator_type",), config.get("accelerator_type"), shape.generation.accelerator_type),
        (("accelerator_config", "topology"), accelerator.get("topology"), shape.topology),
        (("model_loading_config", "model_id"), loading.get("model_id"), spec.model.id),
    ]
    found = [
        Finding(path, f"is {value!r}, and the spec wants {wanted!r}", value=value, allowed=wanted)
        for path, value, wanted in places
        if value != wanted
    ]
    found += _inside(("model_loading_config", "model_source"), loading.get("model_source"), pods.WEIGHTS)
    found += _inside(("runtime_env", "env_vars", _CACHE_VARIABLE), cache, pods.CACHE) if cache else []
    return found


def _inside(path: tuple[str, ...], value: Any, root: str) -> list[Finding]:
    if isinstance(value, str) and PurePosixPath(value).is_relative_to(root):
        return []
    message = f"is {value!r}: of the hosts' pods only {root} is meant for it, all else cannot be written"
    return [Finding(path, message, value=value, allowed=f"{root}/...")]


def _keys_files(serve_config: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Files of the secret that the apps read, with their places in the config."""
    for number, app in enumerate(serve_config.get("applications") or []):
        guard = (app.get("args") or {}).get("guard") or {}
        for file in guard.get("keys_files", ()):
            if PurePosixPath(file).is_relative_to(pods.KEYS):
                yield ("applications", number, "args", "guard", "keys_files"), file


def _no_keys(path: Path, file: str) -> Finding:
    message = f"{file} comes from a secret that the spec does not name: give its name under api_keys there"
    return Finding(path, message, value=file)


def _open_to_hosts(serve_config: Mapping[str, Any]) -> list[Finding]:
    host = (serve_config.get("http_options") or {}).get("host", "127.0.0.1")
    if host == "0.0.0.0":  # noqa: S104 - the pods' network policy says who comes through
        return []
    message = f"is {host!r}: in a pod only the pod itself could ask"
    return [Finding(("http_options", "host"), message, value=host, allowed="0.0.0.0")]  # noqa: S104


def _replicas(config: Mapping[str, Any]) -> int:
    return int((config.get("deployment_config") or {}).get("num_replicas") or 1)

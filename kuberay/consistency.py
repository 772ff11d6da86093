"""A spec with its Serve config, each checked, and both consistent: what every command that changes something begins with.

Slice, model and directories are in both files, as each is needed in both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from apps.checks.findings import Finding, below
from apps.checks.serve_rules import check_serve_config
from apps.checks.source import Source, read
from apps.common.errors import UserError
from kuberay.manifests import pods
from kuberay.spec import Spec, load

_LLM = "apps.llm:build_app"
_CACHE_VARIABLE = "VLLM_XLA_CACHE_PATH"
_ALL_INTERFACES = "0.0.0.0"  # noqa: S104 - the pods' network policy decides who comes through


@dataclass(frozen=True)
class Deployment:
    """`serve_text` is the Serve config as it stands in its file, `warnings` what is allowed and should be known."""

    spec: Spec
    serve_config: dict[str, Any]
    serve_text: str
    warnings: tuple[str, ...]


def load_checked(path: Path, serve_config: Path | None = None) -> Deployment:
    """The spec in a file, with its own Serve config or another.

    Raises:
        UserError: one of them is wrong, or they contradict each other; every finding with file and line.
    """
    spec = load(path)
    serve_path = serve_config or spec.serve_config_path
    source = read(serve_path)
    findings = check_serve_config(source.content, slices=spec.slices.count)
    if not any(finding.severity == "error" for finding in findings):
        findings += contradictions(spec, source.content)
    problem = pods.memory_needed(spec)
    memory = [Finding(("slices", "memory"), problem, value=spec.slices.memory)] if problem else []
    lines = [*_lines(serve_path, source, findings), *_lines(path, read(path), memory)]
    if errors := [line for line in lines if ": error: " in line]:
        raise UserError("\n".join(errors))
    return Deployment(spec, with_names(source.content), serve_path.read_text(), tuple(lines))


def with_names(serve_config: dict[str, Any]) -> dict[str, Any]:
    """The Serve config as Serve itself completes it: a name for an app without one, and the whole's logging in each app."""
    logging = {key: serve_config[key] for key in ("logging_config",) if serve_config.get(key)}
    return {**serve_config, "applications": [{"name": "default", **logging, **app} for app in serve_config["applications"]]}


def contradictions(spec: Spec, serve_config: Mapping[str, Any]) -> list[Finding]:
    """Findings in a Serve config that is right by itself, with paths in it."""
    findings = _open_to_hosts(serve_config)
    slices = 0
    for number, app in enumerate(serve_config.get("applications") or []):
        for index, config in enumerate(app["args"]["llm_configs"] if app.get("import_path") == _LLM else ()):
            findings += below(("applications", number, "args", "llm_configs", index), _model(spec, config))
            if (config.get("accelerator_config") or {}).get("kind") == "tpu":
                slices += int((config.get("deployment_config") or {}).get("num_replicas") or 1)
        guard = (app.get("args") or {}).get("guard") or {}
        for file in guard.get("keys_files", ()) if spec.api_keys is None else ():
            if PurePosixPath(file).is_relative_to(pods.KEYS):
                message = f"{file} comes from a secret that the spec does not name: give its name under api_keys there"
                findings.append(Finding(("applications", number, "args", "guard", "keys_files"), message, value=file))
    if slices > spec.slices.count:
        message = f"its replicas take {slices} slices, and the spec has {spec.slices.count} (slices.count)"
        findings.append(Finding(("applications",), message))
    return findings


def _model(spec: Spec, config: Mapping[str, Any]) -> list[Finding]:
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
    findings = [
        Finding(path, f"is {value!r}, and the spec wants {wanted!r}", value=value, allowed=wanted)
        for path, value, wanted in places
        if value != wanted
    ]
    findings += _inside(("model_loading_config", "model_source"), loading.get("model_source"), pods.WEIGHTS)
    findings += _inside(("runtime_env", "env_vars", _CACHE_VARIABLE), cache, pods.CACHE) if cache else []
    return findings


def _inside(path: tuple[str, ...], value: Any, root: str) -> list[Finding]:
    if isinstance(value, str) and PurePosixPath(value).is_relative_to(root):
        return []
    message = f"is {value!r}: of the hosts' pods only {root} is meant for it, all else cannot be written"
    return [Finding(path, message, value=value, allowed=f"{root}/...")]


def _open_to_hosts(serve_config: Mapping[str, Any]) -> list[Finding]:
    host = (serve_config.get("http_options") or {}).get("host", "127.0.0.1")
    if host == _ALL_INTERFACES:
        return []
    message = f"is {host!r}: in a pod only the pod itself could reach it"
    return [Finding(("http_options", "host"), message, value=host, allowed=_ALL_INTERFACES)]


def _lines(path: Path, source: Source, findings: list[Finding]) -> list[str]:
    return [f"{path}:{source.line(finding.path)}: {finding.severity}: {finding}" for finding in findings]

"""Check who may use what a Serve config opens: keys where other machines can reach it, a guard that sees every request."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from apps.checks.findings import Finding, mapping
from apps.common.loopback import is_loopback
from apps.guard.settings import GuardArgs

RAYS_HOST = "0.0.0.0"  # noqa: S104 - Ray's default for http_options.host is what is checked here
NEEDS_GUARD = "Serve listens on {host}, and anybody who reaches it could use the model: give keys, or set open: true"


def check_doors(application: Mapping[str, Any], http_options: Any) -> list[Finding]:
    """Find a model that other machines can reach without keys or `open: true`. (The chat relies on its API.)"""
    host, args = mapping(http_options).get("host", RAYS_HOST), application.get("args") or {}
    if not isinstance(args, Mapping) or not isinstance(host, str) or is_loopback(host):
        return []
    if application.get("import_path") == "apps.llm:build_app" and args.get("guard") is None:
        allowed = "guard: {keys_files: [/etc/guard/keys.json]} or guard: {open: true}"
        return [Finding(("args", "guard"), NEEDS_GUARD.format(host=host), allowed=allowed)]
    return []


def check_guard(args: Mapping[str, Any], *, direct_streaming: bool) -> list[Finding]:
    """Find settings of an LLM app's models that contradict its guard."""
    try:
        guard = GuardArgs.model_validate(args.get("guard") or {})
    except ValidationError:
        return []  # reported already, or there is none
    findings = []
    for index, config in enumerate(args.get("llm_configs") or []):
        engine, deployment = (mapping(mapping(config).get(name)) for name in ("engine_kwargs", "deployment_config"))
        if engine.get("api_key"):
            path = ("llm_configs", index, "engine_kwargs", "api_key")
            message = "would refuse every request: the guard does not pass keys on; put them into guard.keys_files"
            findings.append(Finding(path, message))
        backend = mapping(engine.get("structured_outputs_config")).get("backend", "xgrammar")
        if backend != "xgrammar":
            where = ("llm_configs", index, "engine_kwargs", "structured_outputs_config", "backend")
            message = "compiles grammars that the guard cannot try first: one request's grammar could hold up everybody"
            findings.append(Finding(where, message, value=backend, allowed="xgrammar, which is the default here"))
        slots, limit = guard.queue.capacity or engine.get("max_num_seqs"), deployment.get("max_ongoing_requests")
        if direct_streaming and isinstance(slots, int) and isinstance(limit, int) and limit <= slots + guard.queue.waiting:
            path = ("llm_configs", index, "deployment_config", "max_ongoing_requests")
            message = (
                f"is {limit}: requests beyond it wait in Serve, first come first served, where the guard can neither let keys "
                f"take turns nor refuse; {slots} run and {guard.queue.waiting} may wait"
            )
            findings.append(Finding(path, message, "warning", limit, f"more than {slots + guard.queue.waiting}"))
    return findings

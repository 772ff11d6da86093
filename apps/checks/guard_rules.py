"""Who may use what a Serve config opens: keys where more than one machine can reach it, and a guard that sees every request."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from apps.checks.findings import Finding
from apps.common.loopback import is_loopback
from apps.guard.settings import GuardArgs

RAYS_HOST = "0.0.0.0"  # noqa: S104 - Ray's default for http_options.host is what is checked here
NEEDS_GUARD = "Serve listens on {host}, and anybody who reaches it could use the model: give keys, or say open: true"


def check_doors(application: Mapping[str, Any], http_options: Any) -> list[Finding]:
    """A model that is open to other machines without having been said to be. (The chat serves only those whom its API does.)"""
    host = http_options.get("host", RAYS_HOST) if isinstance(http_options, Mapping) else RAYS_HOST
    args = application.get("args") or {}
    if not isinstance(args, Mapping) or not isinstance(host, str) or is_loopback(host):
        return []
    if application.get("import_path") == "apps.llm:build_app" and args.get("guard") is None:
        allowed = "guard: {keys_files: [/etc/guard/keys.json]} or guard: {open: true}"
        return [Finding(("args", "guard"), NEEDS_GUARD.format(host=host), allowed=allowed)]
    return []


def check_guard(args: Mapping[str, Any], *, direct_streaming: bool) -> list[Finding]:
    """What of an LLM app's models contradicts its guard."""
    try:
        guard = GuardArgs.model_validate(args.get("guard") or {})
    except ValidationError:
        return []  # said already, or there is none
    found = []
    for index, config in enumerate(args.get("llm_configs") or []):
        if not isinstance(config, Mapping):
            continue
        engine, deployment = (_mapping(config.get(name)) for name in ("engine_kwargs", "deployment_config"))
        if engine.get("api_key"):
            path = ("llm_configs", index, "engine_kwargs", "api_key")
            message = "would refuse every request: the guard keeps keys to itself; keys stand in guard.keys_files"
            found.append(Finding(path, message))
        backend = _mapping(engine.get("structured_outputs_config")).get("backend", "xgrammar")
        if backend != "xgrammar":
            where = ("llm_configs", index, "engine_kwargs", "structured_outputs_config", "backend")
            message = "compiles grammars that the guard cannot try first: one request's could hold up everybody"
            found.append(Finding(where, message, value=backend, allowed="xgrammar, which is taken where none is given"))
        slots, most = guard.queue.capacity or engine.get("max_num_seqs"), deployment.get("max_ongoing_requests")
        if direct_streaming and isinstance(slots, int) and isinstance(most, int) and most <= slots + guard.queue.waiting:
            path = ("llm_configs", index, "deployment_config", "max_ongoing_requests")
            message = (
                f"is {most}: requests beyond it wait in Serve, first come first served, where the guard can neither let keys "
                f"take turns nor refuse; {slots} run and {guard.queue.waiting} may wait"
            )
            found.append(Finding(path, message, "warning", most, f"more than {slots + guard.queue.waiting}"))
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}

"""Check a whole Serve config file: Ray's schema, what the applications share, and the arguments of this project's apps."""

import inspect
import pkgutil
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from apps.checks.arguments import against_model
from apps.checks.findings import Finding, below, mapping
from apps.checks.guard_rules import check_doors, check_guard
from apps.checks.known import schema
from apps.checks.llm_rules import check_llm_configs
from apps.checks.schema import against

_LLM, _CHAT = "apps.llm:build_app", "apps.chat:build_app"
_LOOPBACK = ("127.0.0.1", "localhost")


def check_serve_config(config: Any, *, direct_streaming: bool = True, slices: int | None = None) -> list[Finding]:
    """All findings in a Serve config, errors first where one place has several.

    Args:
        direct_streaming: whether Ray will be started with it, as this project does by default.
        slices: how many TPU slices the cluster has; None skips that check.
    """
    findings = against(schema("serve"), config, "Ray ignores it")
    applications = mapping(config).get("applications")
    if not isinstance(applications, list):
        return findings
    for index, application in enumerate(applications):
        if isinstance(application, Mapping):
            path = ("applications", index)
            findings += below(path, _application(application, direct_streaming=direct_streaming, slices=slices))
            findings += below(path, _chat_address(application, config.get("http_options")))
            findings += below(path, check_doors(application, config.get("http_options")))
            findings += below(path, _places(application))
    return findings + _duplicates(applications)


def _application(application: Mapping[str, Any], *, direct_streaming: bool, slices: int | None) -> list[Finding]:
    import_path, args = application.get("import_path"), application.get("args", {})
    if not isinstance(import_path, str) or not import_path.startswith("apps."):
        return []  # somebody else's app: its arguments are its own
    if import_path not in (_LLM, _CHAT):
        return [Finding(("import_path",), f"{import_path!r} is not an app of this project", allowed=f"{_LLM}, {_CHAT}")]
    findings = below(("args",), against_model(_arguments(import_path), args))
    configs = mapping(args).get("llm_configs")
    if import_path == _LLM and isinstance(configs, list):
        checked = check_llm_configs(configs, direct_streaming=direct_streaming, slices=slices)
        findings += below(("args", "llm_configs"), checked)
        findings += below(("args",), check_guard(args, direct_streaming=direct_streaming))
    return findings


def _places(application: Mapping[str, Any]) -> list[Finding]:
    """Check what Ray's schema takes for any text: a route, and where the app's code is."""
    findings = []
    route, import_path = application.get("route_prefix"), application.get("import_path")
    if isinstance(route, str) and not re.fullmatch(r"/|(/[^/{}]+)+", route):
        message = f"is {route!r}: a route starts with / and does not end with one, and has no wildcards"
        findings.append(Finding(("route_prefix",), message, value=route, allowed="/, or one such as /chat"))
    if isinstance(import_path, str) and not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*|\w+(\.\w+)+", import_path):
        message = f"is {import_path!r}, which is no module with an app in it"
        findings.append(Finding(("import_path",), message, value=import_path, allowed="one such as package.module:app"))
    return findings


def _arguments(import_path: str) -> type[BaseModel]:
    """The model of an app's arguments, found as Ray does: by the annotation of the builder's one parameter."""
    (parameter,) = inspect.signature(pkgutil.resolve_name(import_path)).parameters.values()
    return parameter.annotation


def _chat_address(application: Mapping[str, Any], http_options: Any) -> list[Finding]:
    args = application.get("args")
    if application.get("import_path") != _CHAT or not isinstance(args, Mapping):
        return []
    try:
        url = vars(_arguments(_CHAT).model_validate(args))["api_url"]
    except ValidationError:
        return []  # reported already
    port = mapping(http_options).get("port", 8000)
    if url.host in _LOOPBACK and url.port != port:
        message = f"is {str(url)!r}, but http_options.port is {port}: the chat would talk to another server"
        return [Finding(("args", "api_url"), message, value=str(url), allowed=f"http://{url.host}:{port}/v1")]
    return []


def _duplicates(applications: list[Any]) -> list[Finding]:
    findings = []
    for key, default in (("name", "default"), ("route_prefix", "/")):
        seen: dict[Any, int] = {}
        for index, application in enumerate(applications):
            value = application.get(key, default) if isinstance(application, Mapping) else None
            if not isinstance(value, str):
                continue
            if value in seen:
                message = f"is {value!r}, which applications[{seen[value]}] has too"
                findings.append(Finding(("applications", index, key), message, value=value))
            seen.setdefault(value, index)
    return findings

"""What the server says of itself: its model, version and cache counters; and what Ray Serve says was deployed."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from apps.common.errors import OperationError, UserError
from apps.common.settings import ray_headers

_TIMEOUT_S = 10
# vLLM's own names, and what Ray makes of them
_CACHE = re.compile(r"^(?:vllm:|ray_vllm_)prefix_cache_(queries|hits)_total\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE)


class Server:
    """An OpenAI-compatible server at an address such as `http://127.0.0.1:8000`; `dashboard` is its Ray's, if there is one."""

    def __init__(self, url: str, headers: dict[str, str], dashboard: str | None = None) -> None:
        self._http = httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT_S)
        self.url, self._dashboard = url, dashboard

    def model_card(self, model: str | None) -> dict[str, Any]:
        """The model of that name, or the only one.

        Raises:
            OperationError: no answer.
            UserError: no such model, or several and no name was given.
        """
        try:
            answer = self._http.get("/v1/models")
            answer.raise_for_status()
            cards = answer.json()["data"]
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise OperationError(f"{self.url}/v1/models: {error or type(error).__name__}: is the server up?") from error
        found = [card for card in cards if model in (None, card["id"])]
        if len(found) != 1:
            names = ", ".join(card["id"] for card in cards)
            raise UserError(f"--model {model or 'is not given'}: this server has {names}")
        return dict(found[0])

    def version(self) -> str | None:
        try:
            return str(self._http.get("/version").raise_for_status().json()["version"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return None

    def cache_counters(self) -> "CacheCounters | None":
        """Since the server's start: by its own /metrics, else by what Ray collects of all replicas; None if neither tells."""
        for text in (self._own_metrics, self._ray_metrics):
            if found := _CACHE.findall(text()):
                sums = {name: sum(float(value) for kind, value in found if kind == name) for name in ("queries", "hits")}
                return CacheCounters(**sums)
        return None

    def _own_metrics(self) -> str:
        try:
            return self._http.get("/metrics").raise_for_status().text
        except httpx.HTTPError:
            return ""

    def _ray_metrics(self) -> str:
        """Of all nodes; seconds old, as Ray collects them now and then."""
        if not self._dashboard:
            return ""
        try:
            address = f"{self._dashboard.rstrip('/')}/api/prometheus/sd"
            groups = httpx.get(address, headers=ray_headers(), timeout=_TIMEOUT_S).raise_for_status().json()
            targets = [target for group in groups for target in group["targets"]]
            return "\n".join(httpx.get(f"http://{target}/metrics", timeout=_TIMEOUT_S).text for target in targets)
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return ""


@dataclass(frozen=True)
class CacheCounters:
    """Prompt tokens that were looked up in the prefix cache, and those found there."""

    queries: float
    hits: float

    def since(self, before: "CacheCounters") -> "CacheCounters":
        return CacheCounters(self.queries - before.queries, self.hits - before.hits)


def deployed_config(dashboard: str) -> dict[str, Any]:
    """What Ray Serve was given, from the dashboard's API. Raises `OperationError` if it does not answer."""
    try:
        answer = httpx.get(f"{dashboard.rstrip('/')}/api/serve/applications/", headers=ray_headers(), timeout=_TIMEOUT_S)
        applications = answer.raise_for_status().json()["applications"].values()
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise OperationError(f"--dashboard {dashboard}: {error}") from error
    return {"applications": [app["deployed_app_config"] for app in applications if app.get("deployed_app_config")]}


def config_file(path: Path) -> dict[str, Any]:
    """A Serve config. Raises `UserError` if it is none."""
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--config {path}: {error}") from error
    if not isinstance(found, dict) or "applications" not in found:
        raise UserError(f"--config {path}: no Serve config: `applications` is missing")
    return found


def digest(config: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def llm_config_of(config: dict[str, Any], model: str) -> dict[str, Any] | None:
    """The LLM config of a model in a Serve config."""
    for app in config["applications"]:
        for found in (app.get("args") or {}).get("llm_configs", []):
            if isinstance(found, dict) and found.get("model_loading_config", {}).get("model_id") == model:
                return found
    return None

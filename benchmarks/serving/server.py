"""Facts about the server: its model, version and cache counters, and the Serve config that was deployed."""

import contextlib
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
            OperationError: no response.
            UserError: no such model, or several and no name was given.
        """
        try:
            cards = self._http.get("/v1/models").raise_for_status().json()["data"]
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise OperationError(f"{self.url}/v1/models: {error or type(error).__name__}: is the server up?") from error
        matching = [card for card in cards if model in (None, card["id"])]
        if len(matching) != 1:
            names = ", ".join(card["id"] for card in cards)
            raise UserError(f"--model {model or 'is not given'}: this server has {names}")
        return dict(matching[0])

    def version(self) -> str | None:
        try:
            return str(self._http.get("/version").raise_for_status().json()["version"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return None

    def cache_counters(self) -> "CacheCounters | None":
        """Counts since the server's start, from its own /metrics, else from what Ray collects of all replicas, else None."""
        for metrics in (self._own_metrics, self._ray_metrics):
            with contextlib.suppress(httpx.HTTPError, ValueError, KeyError, TypeError):
                if counters := _CACHE.findall(metrics()):
                    sums = {name: sum(float(value) for kind, value in counters if kind == name) for name in ("queries", "hits")}
                    return CacheCounters(**sums)
        return None

    def _own_metrics(self) -> str:
        return self._http.get("/metrics").raise_for_status().text

    def _ray_metrics(self) -> str:
        """Metrics of all nodes; seconds old, as Ray collects them now and then."""
        if not self._dashboard:
            return ""
        address = f"{self._dashboard.rstrip('/')}/api/prometheus/sd"
        groups = httpx.get(address, headers=ray_headers(), timeout=_TIMEOUT_S).raise_for_status().json()
        targets = [target for group in groups for target in group["targets"]]
        return "\n".join(httpx.get(f"http://{target}/metrics", timeout=_TIMEOUT_S).text for target in targets)


@dataclass(frozen=True)
class CacheCounters:
    """Prompt tokens that were searched for in the prefix cache (queries), and those found there (hits)."""

    queries: float
    hits: float

    def since(self, before: "CacheCounters") -> "CacheCounters":
        return CacheCounters(self.queries - before.queries, self.hits - before.hits)


def deployed_config(dashboard: str) -> dict[str, Any]:
    """The deployed Serve config, from the dashboard's API. Raises `OperationError` if it does not respond."""
    try:
        response = httpx.get(f"{dashboard.rstrip('/')}/api/serve/applications/", headers=ray_headers(), timeout=_TIMEOUT_S)
        applications = response.raise_for_status().json()["applications"].values()
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise OperationError(f"--dashboard {dashboard}: {error}") from error
    return {"applications": [app["deployed_app_config"] for app in applications if app.get("deployed_app_config")]}


def config_file(path: Path) -> dict[str, Any]:
    """A Serve config. Raises `UserError` if it is none."""
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--config {path}: {error}") from error
    if not isinstance(config, dict) or "applications" not in config:
        raise UserError(f"--config {path}: not a Serve config: `applications` is missing")
    return config


def llm_config_of(config: dict[str, Any], model: str) -> dict[str, Any] | None:
    """The LLM config of a model in a Serve config."""
    for app in config["applications"]:
        for llm_config in (app.get("args") or {}).get("llm_configs", []):
            if isinstance(llm_config, dict) and llm_config.get("model_loading_config", {}).get("model_id") == model:
                return llm_config
    return None

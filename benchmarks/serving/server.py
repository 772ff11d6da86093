"""What the server says of itself: its model, version and cache counters; and what Ray Serve says was deployed."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import httpx
import yaml

from apps.errors import OperationError, UserError

_TIMEOUT_S = 10
_CACHE = re.compile(r"^vllm:prefix_cache_(queries|hits)_total\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE)


class Server:
    """An OpenAI-compatible server at an address such as `http://127.0.0.1:8000`."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self._http = httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT_S)
        self.url = url

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

    def cache_counters(self) -> dict[str, float] | None:
        """Tokens looked up in the prefix cache and found there, since the server's start; None if it does not tell."""
        try:
            text = self._http.get("/metrics").raise_for_status().text
        except httpx.HTTPError:
            return None
        found = {"queries": 0.0, "hits": 0.0}
        for name, value in _CACHE.findall(text):
            found[name] += float(value)
        return found if _CACHE.search(text) else None


def deployed_config(dashboard: str) -> dict[str, Any]:
    """What Ray Serve was given, from the dashboard's API. Raises `OperationError` if it does not answer."""
    try:
        answer = httpx.get(f"{dashboard.rstrip('/')}/api/serve/applications/", timeout=_TIMEOUT_S)
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

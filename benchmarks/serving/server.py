"""Facts about the server: its model, version, counters and load, and the Serve config that was deployed."""

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from apps.common.errors import OperationError, UserError
from apps.common.settings import ray_headers

_TIMEOUT_S = 10
# vLLM's own names, and what Ray makes of them
_METRIC = re.compile(r"^(?:vllm:|ray_vllm_)(\w+?)(?:_total)?(?:\{[^}]*\})? ([0-9.eE+-]+)$", re.MULTILINE)
_COUNTERS = {
    "queries": "prefix_cache_queries",
    "hits": "prefix_cache_hits",
    "drafts": "spec_decode_num_drafts",
    "accepted": "spec_decode_num_accepted_tokens",
}
_GAUGES = {"running": "num_requests_running", "waiting": "num_requests_waiting", "kv_cache": "kv_cache_usage_perc"}
_SAMPLE_S = 1.0


class Server:
    """An OpenAI-compatible server at an address such as `http://127.0.0.1:8000`; `dashboard` is its Ray's, if there is one."""

    def __init__(self, url: str, headers: dict[str, str], dashboard: str | None = None) -> None:
        self._http = httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT_S)
        self.url, self._dashboard = url, dashboard

    def model_card(self, model: str | None) -> dict[str, Any]:
        """The model of that name, or the only one. Raises `OperationError` without a response, `UserError` without a match."""
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

    def counters(self) -> dict[str, float] | None:
        """Counts since the server's start, from its own /metrics, else from what Ray collects of all replicas, else None.

        `queries` are prompt tokens that were searched for in the prefix cache, and `hits` those found there; `drafts` are
        those of speculative decoding, and `accepted` their tokens that were.
        """
        values = self._metrics()
        counts = {name: sum(values.get(metric, [])) for name, metric in _COUNTERS.items()}
        return counts if _COUNTERS["queries"] in values else None

    @contextlib.contextmanager
    def sampling(self) -> Iterator[list[tuple[float, dict[str, float]]]]:
        """Note the server's load now and then, as long as the block runs: when, and its gauges by name."""
        samples: list[tuple[float, dict[str, float]]] = []
        ended = threading.Event()

        def sample() -> None:
            while not ended.wait(_SAMPLE_S):
                values = self._metrics()
                gauges = {name: values[metric] for name, metric in _GAUGES.items() if metric in values}
                if not gauges:
                    return
                means = {name: max(each) if name == "kv_cache" else sum(each) for name, each in gauges.items()}
                samples.append((time.perf_counter(), means))

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield samples
        finally:
            ended.set()
            thread.join()

    def replicas(self) -> int | None:
        """Running replicas of the app whose model this is, by the dashboard; the app with the most, as others serve pages."""
        if not self._dashboard:
            return None
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError, TypeError):
            apps = _applications(self._dashboard)
            counts = [
                sum(replica["state"] == "RUNNING" for replica in deployment["replicas"])
                for app in apps
                if "llm_configs" in ((app.get("deployed_app_config") or {}).get("args") or {})
                for deployment in app["deployments"].values()
            ]
            return max(counts, default=None)
        return None

    def _metrics(self) -> dict[str, list[float]]:
        """Values of the engine's metrics by name, one for each series."""
        for metrics in (self._own_metrics, self._ray_metrics):
            with contextlib.suppress(httpx.HTTPError, ValueError, KeyError, TypeError):
                values: dict[str, list[float]] = {}
                for name, value in _METRIC.findall(metrics()):
                    values.setdefault(name, []).append(float(value))
                if values:
                    return values
        return {}

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


def _applications(dashboard: str) -> list[dict[str, Any]]:
    response = httpx.get(f"{dashboard.rstrip('/')}/api/serve/applications/", headers=ray_headers(), timeout=_TIMEOUT_S)
    return list(response.raise_for_status().json()["applications"].values())


def deployed_config(dashboard: str) -> dict[str, Any]:
    """The deployed Serve config, from the dashboard's API. Raises `OperationError` if it does not respond."""
    try:
        applications = _applications(dashboard)
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


def llm_config_of(config: dict[str, Any], model: str) -> dict[str, Any]:
    """The LLM config of a model in a Serve config. Raises `UserError` if the config does not have the model."""
    for app in config["applications"]:
        for llm_config in (app.get("args") or {}).get("llm_configs", []):
            if isinstance(llm_config, dict) and llm_config.get("model_loading_config", {}).get("model_id") == model:
                return llm_config
    raise UserError(f"the Serve config has no model {model!r}, which was measured")

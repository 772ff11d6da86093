"""The dashboards as data, from the YAML files beside this module, and as what shows them: Grafana's JSON, or a page that
Prometheus serves itself (`--web.console.templates`), for machines that have no Grafana.
"""

import hashlib
import json
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import yaml

from kuberay.observability.rules import scoped

_HERE = Path(__file__).parent
_NAMES = ("overview", "engine", "slice")
_WINDOW = "[window]"
_GRAFANA_SCHEMA = 39  # Grafana 11
_ACROSS, _WIDTH, _HEIGHT = 3, 8, 8  # Grafana's page is 24 units wide
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_PANELS = "@PANELS@"


@dataclass(frozen=True)
class Panel:
    """One graph: expressions by their legend, in which `{{label}}` stands for a label's value."""

    title: str
    text: str
    unit: str
    """One of Grafana's units: s, reqps, percent (0 to 100), percentunit (0 to 1), bytes, none."""
    queries: dict[str, str]
    needs_tpu: bool = False
    """True where only a TPU's device plugin has the figures."""

    def over(self, window: str) -> dict[str, str]:
        """The expressions with the window of their rates, such as `1m`, filled in."""
        return {legend: expression.replace(_WINDOW, f"[{window}]") for legend, expression in self.queries.items()}


@dataclass(frozen=True)
class Dashboard:
    """One page of panels."""

    name: str
    title: str
    panels: tuple[Panel, ...]


def dashboards() -> list[Dashboard]:
    """All of them."""
    pages = [(name, yaml.safe_load((_HERE / f"{name}.yaml").read_text())) for name in _NAMES]
    return [Dashboard(name, page["title"], tuple(Panel(**panel) for panel in page["panels"])) for name, page in pages]


def to_grafana(dashboard: Dashboard, namespace: str) -> dict[str, Any]:
    """What Grafana reads, with the data source to be chosen there: the same for the same dashboard and namespace."""
    digest = hashlib.sha256(namespace.encode()).hexdigest()[:8]  # Grafana takes 40 characters, a namespace has up to 63
    return {
        "uid": f"ray-tpu-serve-{dashboard.name}-{digest}",
        "title": f"{dashboard.title} ({namespace})",
        "tags": ["ray-tpu-serve"],
        "schemaVersion": _GRAFANA_SCHEMA,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "annotations": {"list": []},
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "panels": [_grafana_panel(panel, number, namespace) for number, panel in enumerate(dashboard.panels)],
    }


def to_json(dashboard: Dashboard, namespace: str) -> str:
    """Grafana's form as text with one panel a line, so that a diff shows which one changes."""
    whole = to_grafana(dashboard, namespace)
    panels = ",\n".join(json.dumps(panel) for panel in whole["panels"])
    return json.dumps({**whole, "panels": _PANELS}).replace(f'"{_PANELS}"', f"[\n{panels}\n]") + "\n"


def to_console(dashboard: Dashboard, all_dashboards: list[Dashboard], window: str, alerts: str) -> str:
    """The template of Prometheus's own page, with links to the other dashboards and the alerts; rates are over `window`."""
    links = "".join(f'<a href="{other.name}.html">{escape(other.title)}</a>' for other in all_dashboards)
    panels = json.dumps([_console_panel(panel, window) for panel in dashboard.panels])
    page = (_HERE / "console.html").read_text().replace("__TITLE__", escape(dashboard.title))
    return page.replace("__LINKS__", f'{links}<a href="{alerts}">Alerts</a>').replace("__PANELS__", panels)


def _grafana_panel(panel: Panel, number: int, namespace: str) -> dict[str, Any]:
    queries = panel.over("$__rate_interval").items()
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": _SOURCE,
        "gridPos": {"x": number % _ACROSS * _WIDTH, "y": number // _ACROSS * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "none"},
        },
        "targets": [
            {"refId": reference, "datasource": _SOURCE, "expr": scoped(expression, namespace), "legendFormat": legend}
            for reference, (legend, expression) in zip("ABCDEFGHIJ", queries, strict=False)
        ],
    }


def _console_panel(panel: Panel, window: str) -> dict[str, object]:
    """The panel without double braces in its legends: Prometheus would fill them in, as the page is a template."""
    queries = [
        {"legend": legend.replace("{{", "[[").replace("}}", "]]"), "expr": expression}
        for legend, expression in panel.over(window).items()
    ]
    return {"title": panel.title, "text": panel.text, "unit": panel.unit, "queries": queries}

"""A dashboard as the JSON that Grafana reads, with the data source to be chosen there."""

import hashlib
import json
from typing import Any

from kuberay.observability.dashboards import Dashboard, Panel
from kuberay.observability.scope import in_namespace

_SCHEMA = 39  # Grafana 11
_ACROSS, _WIDTH, _HEIGHT = 3, 8, 8  # Grafana's page is 24 units wide
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_PANELS = "@PANELS@"


def to_grafana(dashboard: Dashboard, namespace: str) -> dict[str, Any]:
    """The same for the same dashboard; it shows what runs in one namespace."""
    known_by = hashlib.sha256(namespace.encode()).hexdigest()[:8]  # Grafana takes 40 characters, a namespace has up to 63
    return {
        "uid": f"ray-tpu-serve-{dashboard.name}-{known_by}",
        "title": f"{dashboard.title} ({namespace})",
        "tags": ["ray-tpu-serve"],
        "schemaVersion": _SCHEMA,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "annotations": {"list": []},
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "panels": [_panel(panel, number, namespace) for number, panel in enumerate(dashboard.panels)],
    }


def to_json(dashboard: Dashboard, namespace: str) -> str:
    """As text with one panel a line, so that a diff shows which one changes."""
    whole = to_grafana(dashboard, namespace)
    panels = ",\n".join(json.dumps(panel) for panel in whole["panels"])
    return json.dumps({**whole, "panels": _PANELS}).replace(f'"{_PANELS}"', f"[\n{panels}\n]") + "\n"


def _panel(panel: Panel, number: int, namespace: str) -> dict[str, Any]:
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
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": in_namespace(expression, namespace),
                "legendFormat": legend,
            }
            for index, (legend, expression) in enumerate(queries)
        ],
    }

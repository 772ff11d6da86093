"""A dashboard as the JSON that Grafana imports, with the data source to be chosen there."""

from typing import Any

from kuberay.observability.dashboards import Dashboard, Panel

_SCHEMA = 39  # Grafana 11
_ACROSS, _WIDTH, _HEIGHT = 3, 8, 8  # Grafana's page is 24 units wide
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def to_grafana(dashboard: Dashboard) -> dict[str, Any]:
    """The same text for the same dashboard."""
    return {
        "uid": f"ray-tpu-serve-{dashboard.name}",
        "title": dashboard.title,
        "tags": ["ray-tpu-serve"],
        "schemaVersion": _SCHEMA,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "panels": [_panel(panel, number) for number, panel in enumerate(dashboard.panels)],
    }


def _panel(panel: Panel, number: int) -> dict[str, Any]:
    queries = panel.over("$__rate_interval").items()
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": _SOURCE,
        "gridPos": {"x": number % _ACROSS * _WIDTH, "y": number // _ACROSS * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
            for index, (legend, expression) in enumerate(queries)
        ],
    }

"""A dashboard as a page that Prometheus serves itself (`--web.console.templates`), for machines that have no Grafana."""

import json
from html import escape
from pathlib import Path

from kuberay.observability.dashboards import Dashboard, Panel

_PAGE = Path(__file__).with_name("console.html")


def to_console(dashboard: Dashboard, all_dashboards: list[Dashboard], window: str) -> str:
    """The page's template, with links to the other dashboards; rates are over `window`."""
    links = "".join(f'<a href="{one.name}.html">{escape(one.title)}</a>' for one in all_dashboards)
    panels = json.dumps([_panel(panel, window) for panel in dashboard.panels])
    page = _PAGE.read_text()
    return page.replace("__TITLE__", escape(dashboard.title)).replace("__LINKS__", links).replace("__PANELS__", panels)


def _panel(panel: Panel, window: str) -> dict[str, object]:
    queries = [{"legend": _masked(legend), "expr": expression} for legend, expression in panel.over(window).items()]
    return {"title": panel.title, "text": panel.text, "unit": panel.unit, "queries": queries}


def _masked(legend: str) -> str:
    """Prometheus would fill in what is between double braces, as the page is a template."""
    return legend.replace("{{", "[[").replace("}}", "]]")

"""The dashboards as data: what each panel shows and asks Prometheus. The YAML files beside this module hold them, once for all
forms that they are rendered to.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_HERE = Path(__file__).parent
_NAMES = ("overview", "engine", "slice")
_WINDOW = "[window]"


@dataclass(frozen=True)
class Panel:
    """One graph: expressions by their legend, in which `{{label}}` stands for a label's value."""

    title: str
    text: str
    unit: str
    """In Grafana's words: s, reqps, percent (0 to 100), percentunit (0 to 1), bytes, none."""
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
    return [_dashboard(name, yaml.safe_load((_HERE / f"{name}.yaml").read_text())) for name in _NAMES]


def _dashboard(name: str, found: dict[str, Any]) -> Dashboard:
    return Dashboard(name, found["title"], tuple(Panel(**panel) for panel in found["panels"]))

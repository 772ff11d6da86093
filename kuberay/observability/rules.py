"""The alert rules in Prometheus's own form, for one namespace, and with time shrunk for a trial."""

import re
from pathlib import Path
from typing import Any

import yaml

from kuberay.observability import scope

_FILE = Path(__file__).with_name("alerts.yaml")
_DURATION = re.compile(r"(\[|\boffset )(\d+)([smhd])\b")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

Rules = dict[str, Any]


def rules() -> Rules:
    """A Prometheus rule file's content, each rule with its runbook."""
    found: Rules = yaml.safe_load(_FILE.read_text())
    for rule in _each(found):
        rule["annotations"]["runbook"] = f"docs/alerts/{rule['alert']}.md"
    return found


def shrunk(found: Rules, factor: float, least_s: int) -> Rules:
    """The same rules with every window and wait divided by `factor`, none under `least_s`: faults show in a trial of minutes.

    `least_s` must span some intervals of Ray's export and of Prometheus's reading.
    """

    def shorter(seconds: int) -> str:
        return f"{max(least_s, round(seconds / factor))}s"

    for rule in _each(found):
        rule["expr"] = _DURATION.sub(lambda match: match[1] + shorter(int(match[2]) * _SECONDS[match[3]]), rule["expr"])
        if "for" in rule:
            rule["for"] = shorter(int(rule["for"][:-1]) * _SECONDS[rule["for"][-1]])
    return found


def in_namespace(found: Rules, namespace: str) -> Rules:
    """The same rules for what runs in one namespace."""
    for rule in _each(found):
        rule["expr"] = scope.in_namespace(rule["expr"], namespace)
    return found


def _each(found: Rules) -> list[dict[str, Any]]:
    return [rule for group in found["groups"] for rule in group["rules"]]

"""The alert rules in Prometheus's own form, for one namespace, and with time shrunk for a trial."""

import re
from pathlib import Path
from typing import Any

import yaml

_FILE = Path(__file__).with_name("alerts.yaml")
_DURATION = re.compile(r"(\[|\boffset )(\d+)([smhd])\b")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_METRIC = re.compile(r"\b(ray_\w+)(\{)?")  # all metrics here come through Ray, which names them so

Rules = dict[str, Any]


def rules() -> Rules:
    """A Prometheus rule file's content, each rule with its runbook."""
    content: Rules = yaml.safe_load(_FILE.read_text())
    for rule in _each(content):
        rule["annotations"]["runbook"] = f"docs/alerts/{rule['alert']}.md"
    return content


def shrunk(content: Rules, factor: float, least_s: int) -> Rules:
    """The same rules with every window and wait divided by `factor`, none under `least_s`: faults show in a trial of minutes.

    `least_s` must span some intervals of Ray's export and of Prometheus's reading.
    """

    def shorter(seconds: int) -> str:
        return f"{max(least_s, round(seconds / factor))}s"

    for rule in _each(content):
        rule["expr"] = _DURATION.sub(lambda match: match[1] + shorter(int(match[2]) * _SECONDS[match[3]]), rule["expr"])
        if "for" in rule:
            rule["for"] = shorter(int(rule["for"][:-1]) * _SECONDS[rule["for"][-1]])
    return content


def in_namespace(content: Rules, namespace: str) -> Rules:
    """The same rules for what runs in one namespace."""
    for rule in _each(content):
        rule["expr"] = scoped(rule["expr"], namespace)
    return content


def scoped(expression: str, namespace: str) -> str:
    """An expression on one namespace's series, for a Prometheus that has several deployments."""
    matcher = f'namespace="{namespace}"'
    return _METRIC.sub(lambda match: f"{match[1]}{{{matcher}" + (", " if match[2] else "}"), expression)


def _each(content: Rules) -> list[dict[str, Any]]:
    return [rule for group in content["groups"] for rule in group["rules"]]

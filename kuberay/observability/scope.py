"""Expressions that look at one deployment, where a Prometheus has several."""

import re

_METRIC = re.compile(r"\b(ray_\w+)(\{)?")  # all metrics here come through Ray, which names them so


def in_namespace(expression: str, namespace: str) -> str:
    """The same question of one namespace's series."""
    matcher = f'namespace="{namespace}"'
    return _METRIC.sub(lambda found: f"{found[1]}{{{matcher}" + (", " if found[2] else "}"), expression)

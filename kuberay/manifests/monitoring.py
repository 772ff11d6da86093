"""Who reads the metrics, the alert rules, and the dashboards: for Google's managed Prometheus or for the Prometheus operator.

What they say is in kuberay/observability; a Grafana's side-car finds the dashboards by their label.
"""

from typing import Any

from kuberay import names
from kuberay.observability.dashboards import dashboards
from kuberay.observability.grafana import to_json
from kuberay.observability.rules import in_namespace, rules
from kuberay.spec import Spec

Manifest = dict[str, Any]
_EVERY = "15s"


def monitoring(spec: Spec) -> list[Manifest]:
    """Everything that watches a deployment; nothing where `metrics` is `off`."""
    match spec.metrics:
        case "gmp":
            return [_pod_monitoring(spec), _managed_rules(spec), _dashboards(spec)]
        case "operator":
            return [_pod_monitor(spec), _prometheus_rule(spec), _dashboards(spec)]
        case "off":
            return []


def _pod_monitoring(spec: Spec) -> Manifest:
    """Google Cloud Managed Service for Prometheus reads every Ray pod's metrics: Ray's, Serve's, vLLM's and this project's."""
    return {
        "apiVersion": "monitoring.googleapis.com/v1",
        "kind": "PodMonitoring",
        "metadata": _metadata(spec, spec.name),
        "spec": {
            "selector": {"matchLabels": names.ray_pods(spec.name)},
            "endpoints": [{"port": "metrics", "interval": _EVERY}],
            "targetLabels": {"metadata": ["pod", "container", "node"]},
        },
    }


def _managed_rules(spec: Spec) -> Manifest:
    """Google's kind looks at its own namespace only, and at nothing else of the rules' labels."""
    return {
        "apiVersion": "monitoring.googleapis.com/v1",
        "kind": "Rules",
        "metadata": _metadata(spec, spec.name),
        "spec": {"groups": [{"name": one["name"], "interval": "30s", "rules": one["rules"]} for one in rules()["groups"]]},
    }


def _pod_monitor(spec: Spec) -> Manifest:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": _selected(spec),
        "spec": {
            "selector": {"matchLabels": names.ray_pods(spec.name)},
            "podMetricsEndpoints": [{"port": "metrics", "interval": _EVERY}],
        },
    }


def _prometheus_rule(spec: Spec) -> Manifest:
    """One Prometheus may watch many namespaces, so the rules themselves say which."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": _selected(spec),
        "spec": in_namespace(rules(), spec.namespace),
    }


def _dashboards(spec: Spec) -> Manifest:
    """The side-car keeps the dashboards of all namespaces in one folder, by the names of these keys."""
    metadata = _metadata(spec, names.dashboards(spec.name))
    files = {f"{spec.namespace}-{one.name}.json": to_json(one, spec.namespace) for one in dashboards()}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**metadata, "labels": {**metadata["labels"], names.DASHBOARD_LABEL: "1"}},
        "data": files,
    }


def _selected(spec: Spec) -> Manifest:
    """With the labels by which a Prometheus of the operator chooses what it reads."""
    metadata = _metadata(spec, spec.name)
    return {**metadata, "labels": {**spec.metrics_labels, **metadata["labels"]}}


def _metadata(spec: Spec, name: str) -> Manifest:
    return {"name": name, "namespace": spec.namespace, "labels": names.labels(spec.name, "monitoring")}

"""Who reads the metrics, the alert rules, and the dashboards: for Google's managed Prometheus or for the Prometheus operator.

Their content is in kuberay/observability; a Grafana's side-car finds the dashboards by their label.
"""

from kuberay import names
from kuberay.manifests import manifest
from kuberay.objects import Manifest
from kuberay.observability.dashboards import dashboards, to_json
from kuberay.observability.rules import in_namespace, rules
from kuberay.spec import Spec

_INTERVAL = "15s"


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
    wanted = {
        "selector": {"matchLabels": names.ray_pods(spec.name)},
        "endpoints": [{"port": "metrics", "interval": _INTERVAL}],
        "targetLabels": {"metadata": ["pod", "container", "node"]},
    }
    return manifest(spec, "monitoring", "PodMonitoring", spec=wanted)


def _managed_rules(spec: Spec) -> Manifest:
    """Google's kind sees its own namespace only, and takes nothing else of the rules' labels."""
    groups = [{"name": group["name"], "interval": "30s", "rules": group["rules"]} for group in rules()["groups"]]
    return manifest(spec, "monitoring", "Rules", spec={"groups": groups})


def _pod_monitor(spec: Spec) -> Manifest:
    endpoints = [{"port": "metrics", "interval": _INTERVAL}]
    wanted = {"selector": {"matchLabels": names.ray_pods(spec.name)}, "podMetricsEndpoints": endpoints}
    return _selected(spec, manifest(spec, "monitoring", "PodMonitor", spec=wanted))


def _prometheus_rule(spec: Spec) -> Manifest:
    """One Prometheus may watch many namespaces, so the rules themselves name theirs."""
    return _selected(spec, manifest(spec, "monitoring", "PrometheusRule", spec=in_namespace(rules(), spec.namespace)))


def _dashboards(spec: Spec) -> Manifest:
    """The side-car keeps the dashboards of all namespaces in one folder, by the names of these keys."""
    files = {f"{spec.namespace}-{board.name}.json": to_json(board, spec.namespace) for board in dashboards()}
    boards = manifest(spec, "monitoring", "ConfigMap", names.dashboards(spec.name), data=files)
    boards["metadata"]["labels"][names.DASHBOARD_LABEL] = "1"
    return boards


def _selected(spec: Spec, made: Manifest) -> Manifest:
    """The object with the labels by which a Prometheus of the operator chooses what it reads."""
    labels = {**spec.metrics_labels, **made["metadata"]["labels"]}
    return {**made, "metadata": {**made["metadata"], "labels": labels}}

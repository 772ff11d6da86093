"""Who reads the metrics, the alert rules, and the dashboards: for Google's managed Prometheus or for the Prometheus operator.

Their content is in kuberay/observability; a Grafana's side-car finds the dashboards by their label.
"""

from kuberay import names
from kuberay.manifests import manifest
from kuberay.objects import Manifest
from kuberay.observability.dashboards import dashboards, to_json
from kuberay.observability.rules import in_namespace, rules
from kuberay.spec import Spec

_ENDPOINTS = [{"port": "metrics", "interval": "15s"}]


def monitoring(spec: Spec) -> list[Manifest]:
    """Everything that watches a deployment; nothing where `metrics` is `off`."""
    match spec.metrics:
        case "gmp":
            return [*_for_google(spec), _dashboards(spec)]
        case "operator":
            return [*_for_the_operator(spec), _dashboards(spec)]
        case "off":
            return []


def _for_google(spec: Spec) -> list[Manifest]:
    """Every Ray pod's metrics, which are Ray's, Serve's, vLLM's and this project's; and the rules.

    Google's kind of rules sees its own namespace only, and takes nothing else of the rules' labels.
    """
    pods = {
        "selector": {"matchLabels": names.ray_pods(spec.name)},
        "endpoints": _ENDPOINTS,
        "targetLabels": {"metadata": ["pod", "container", "node"]},
    }
    groups = [{"name": group["name"], "interval": "30s", "rules": group["rules"]} for group in rules()["groups"]]
    return [
        manifest(spec, "monitoring", "PodMonitoring", spec=pods),
        manifest(spec, "monitoring", "Rules", spec={"groups": groups}),
    ]


def _for_the_operator(spec: Spec) -> list[Manifest]:
    """The same, with the labels by which a Prometheus chooses; one may watch many namespaces, so the rules name theirs."""
    pods = {"selector": {"matchLabels": names.ray_pods(spec.name)}, "podMetricsEndpoints": _ENDPOINTS}
    made = [
        manifest(spec, "monitoring", "PodMonitor", spec=pods),
        manifest(spec, "monitoring", "PrometheusRule", spec=in_namespace(rules(), spec.namespace)),
    ]
    for each in made:
        each["metadata"]["labels"] = {**spec.metrics_labels, **each["metadata"]["labels"]}
    return made


def _dashboards(spec: Spec) -> Manifest:
    """The side-car keeps the dashboards of all namespaces in one folder, by the names of these keys."""
    files = {f"{spec.namespace}-{board.name}.json": to_json(board, spec.namespace) for board in dashboards()}
    boards = manifest(spec, "monitoring", "ConfigMap", names.dashboards(spec.name), data=files)
    boards["metadata"]["labels"][names.DASHBOARD_LABEL] = "1"
    return boards

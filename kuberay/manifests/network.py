"""Networks: the hosts' own interfaces (DRANET), the compute class that has them on Autopilot, and who may talk to whom."""

from typing import Any

from kuberay import names
from kuberay.spec import Spec

Manifest = dict[str, Any]
_DNS = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
_METADATA = [{"port": port, "protocol": "TCP"} for port in (80, 987, 988)]  # GKE's metadata server, for Workload Identity
_NODE_PORTS = (2112, 8353)  # of the TPU device plugin and of libtpu's controller, on each host's own address
_HTTPS = 443


def claim_template(spec: Spec) -> Manifest:
    """Every network interface of the node, for each host's pod. Needs DRANET on the node pool."""
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": _metadata(spec, names.claim_template(spec.name), "network"),
        "spec": {
            "spec": {
                "devices": {
                    "requests": [
                        {
                            "name": "netdev",
                            "exactly": {"deviceClassName": names.NETWORK_DEVICE_CLASS, "allocationMode": "All"},
                        }
                    ]
                }
            }
        },
    }


def compute_class(spec: Spec) -> Manifest:
    """What nodes Autopilot makes for the hosts: with DRANET, and in the way that their capacity is bought."""
    priority: Manifest = {"machineType": spec.slices.shape.machine_type, "acceleratorNetworkProfile": "auto"}
    capacity = spec.slices.capacity
    if capacity.kind == "spot":
        priority["spot"] = True
    if capacity.kind == "flex-start":
        priority["flexStart"] = {"enabled": True}
    if capacity.kind == "reservation":
        priority["reservations"] = {"affinity": "Specific", "specific": [{"name": capacity.reservation}]}
    metadata = {"name": names.compute_class(spec.name), "labels": names.labels(spec.name, "network")}
    return {
        "apiVersion": "cloud.google.com/v1",
        "kind": "ComputeClass",
        "metadata": metadata,  # of the whole cluster, not of a namespace
        "spec": {
            "nodePoolAutoCreation": {"enabled": True},
            "nodePoolConfig": {"dra": {"networking": {"enabled": True}}},
            "priorities": [priority],
        },
    }


def network_policy(spec: Spec) -> Manifest:
    """The pods talk freely among themselves; the namespace reaches the API, the collectors reach the metrics, and no more."""
    own = {"podSelector": {"matchLabels": names.ray_pods(spec.name)}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(spec, spec.name, "network"),
        "spec": {
            **own,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [own]},
                {"from": [{"podSelector": {}}], "ports": [_tcp(names.PORTS["serve"])]},
                *_collectors(spec),
                *_operator(spec),
            ],
            "egress": [
                {"to": [own]},
                {"ports": _DNS},
                {"to": [{"ipBlock": {"cidr": "169.254.169.0/24"}}], "ports": _METADATA},
                {"ports": [_tcp(port) for port in (_HTTPS, *_NODE_PORTS)]},
                *_redis(spec),
                *_trace_collector(spec),
            ],
        },
    }


def _collectors(spec: Spec) -> list[Manifest]:
    """The Prometheus operator puts its label on every Prometheus that it makes, wherever that lives."""
    own = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}}
    match spec.metrics:
        case "gmp":
            return [{"from": [_namespaces("gmp-system", "gke-gmp-system")], "ports": [_tcp(names.PORTS["metrics"])]}]
        case "operator":
            return [{"from": [own], "ports": [_tcp(names.PORTS["metrics"])]}]
        case "off":
            return []


def _operator(spec: Spec) -> list[Manifest]:
    """KubeRay deploys a RayService's apps by itself, from a namespace that installations choose; it needs the token."""
    if spec.kind == "RayCluster":
        return []
    return [{"from": [{"namespaceSelector": {}}], "ports": [_tcp(names.PORTS["dashboard"]), _tcp(names.AGENT_PORT)]}]


def _redis(spec: Spec) -> list[Manifest]:
    if spec.fault_tolerance is None:
        return []
    return [{"ports": [_tcp(int(spec.fault_tolerance.address.rpartition(":")[2]))]}]


def _trace_collector(spec: Spec) -> list[Manifest]:
    return [{"ports": [_tcp(int(spec.traces.rpartition(":")[2]))]}] if spec.traces else []


def _namespaces(*wanted: str) -> Manifest:
    expression = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(wanted)}
    return {"namespaceSelector": {"matchExpressions": [expression]}}


def _tcp(port: int) -> Manifest:
    return {"protocol": "TCP", "port": port}


def _metadata(spec: Spec, name: str, component: str) -> Manifest:
    return {"name": name, "namespace": spec.namespace, "labels": names.labels(spec.name, component)}

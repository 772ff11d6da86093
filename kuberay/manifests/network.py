"""Networks: the hosts' own interfaces (DRANET), the compute class that has them on Autopilot, and who may talk to whom."""

from typing import Any

from kuberay import names
from kuberay.manifests import manifest
from kuberay.objects import Manifest
from kuberay.spec import Spec

_DNS = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
_METADATA = [{"port": port, "protocol": "TCP"} for port in (80, 987, 988)]  # GKE's metadata server, for Workload Identity
_NODE_PORTS = (2112, 8353)  # of the TPU device plugin and of libtpu's controller, on each host's own address
_HTTPS = 443


def claim_template(spec: Spec) -> Manifest:
    """Every network interface of the node, for each host's pod. Needs DRANET on the node pool."""
    request = {"name": "netdev", "exactly": {"deviceClassName": names.NETWORK_DEVICE_CLASS, "allocationMode": "All"}}
    claim = {"spec": {"devices": {"requests": [request]}}}
    return manifest(spec, "network", "ResourceClaimTemplate", names.claim_template(spec.name), spec=claim)


def compute_class(spec: Spec) -> Manifest:
    """The nodes that Autopilot makes for the hosts: with DRANET, and in the way that their capacity is bought."""
    priority: dict[str, Any] = {"machineType": spec.slices.shape.machine_type, "acceleratorNetworkProfile": "auto"}
    capacity = spec.slices.capacity
    if capacity.kind == "spot":
        priority["spot"] = True
    if capacity.kind == "flex-start":
        priority["flexStart"] = {"enabled": True}
    if capacity.kind == "reservation":
        priority["reservations"] = {"affinity": "Specific", "specific": [{"name": capacity.reservation}]}
    wanted = {
        "nodePoolAutoCreation": {"enabled": True},
        "nodePoolConfig": {"dra": {"networking": {"enabled": True}}},
        "priorities": [priority],
    }
    return manifest(spec, "network", "ComputeClass", names.compute_class(spec.name), spec=wanted)


def network_policy(spec: Spec) -> Manifest:
    """The pods talk freely among themselves; the namespace reaches the API, the collectors reach the metrics, and no more."""
    own = {"podSelector": {"matchLabels": names.ray_pods(spec.name)}}
    outside = [spec.fault_tolerance.address] if spec.fault_tolerance else []
    outside += [spec.traces] if spec.traces else []
    wanted = {
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
            *({"ports": [_tcp(int(address.rpartition(":")[2]))]} for address in outside),
        ],
    }
    return manifest(spec, "network", "NetworkPolicy", spec=wanted)


def _collectors(spec: Spec) -> list[Manifest]:
    """The Prometheus operator puts its label on every Prometheus that it makes, wherever that lives."""
    if spec.metrics == "off":
        return []
    googles = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["gmp-system", "gke-gmp-system"]}
    collector: dict[str, Any] = {"namespaceSelector": {"matchExpressions": [googles]}}
    if spec.metrics == "operator":
        collector = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}}
    return [{"from": [collector], "ports": [_tcp(names.PORTS["metrics"])]}]


def _operator(spec: Spec) -> list[Manifest]:
    """KubeRay deploys a RayService's apps by itself, from a namespace that installations choose; it needs the token."""
    if spec.kind == "RayCluster":
        return []
    return [{"from": [{"namespaceSelector": {}}], "ports": [_tcp(names.PORTS["dashboard"]), _tcp(names.AGENT_PORT)]}]


def _tcp(port: int) -> Manifest:
    return {"protocol": "TCP", "port": port}

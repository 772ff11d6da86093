"""Networks: the hosts' own interfaces (DRANET), the compute class of nodes that have them, and who may talk to whom."""

from typing import Any

from kuberay import names
from kuberay.manifests import manifest
from kuberay.objects import Manifest
from kuberay.spec import Capacity, Spec

_DNS = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
_METADATA = [{"port": port, "protocol": "TCP"} for port in (80, 987, 988)]  # GKE's metadata server, for Workload Identity
_NODE_PORTS = (2112, 8353)  # of the TPU device plugin and of libtpu's controller, on each host's own address
_HTTPS = 443
_LOAD_BALANCERS = ("130.211.0.0/22", "35.191.0.0/16")
"""Google's front ends and health checks. Source: https://cloud.google.com/load-balancing/docs/firewall-rules"""


def claim_template(spec: Spec) -> Manifest:
    """Every network interface of the node, for each host's pod. Needs DRANET on the node pool."""
    request = {"name": "netdev", "exactly": {"deviceClassName": names.NETWORK_DEVICE_CLASS, "allocationMode": "All"}}
    claim = {"spec": {"devices": {"requests": [request]}}}
    return manifest(spec, "network", "ResourceClaimTemplate", names.claim_template(spec.name), spec=claim)


def compute_class(spec: Spec) -> Manifest:
    """The nodes that GKE makes for the hosts: in the zone, with DRANET, bought in the first way of those given that works."""
    wanted: dict[str, Any] = {
        "nodePoolAutoCreation": {"enabled": True},
        "priorities": [_priority(spec, capacity) for capacity in spec.slices.capacity],
    }
    if spec.slices.network == "dranet":
        wanted["nodePoolConfig"] = {"dra": {"networking": {"enabled": True}}}
    return manifest(spec, "network", "ComputeClass", names.compute_class(spec.name), spec=wanted)


def _priority(spec: Spec, capacity: Capacity) -> dict[str, Any]:
    zones = [spec.cloud.zone]
    priority: dict[str, Any] = {"machineType": spec.slices.shape.machine_type}
    priority |= {"acceleratorNetworkProfile": "auto"} if spec.slices.network == "dranet" else {}
    match capacity.kind:
        case "reservation":
            _, _, path = (capacity.reservation or "").rpartition("projects/")
            project, _, name = path.rpartition("/reservations/")
            shared = {"project": project} if project else {}
            return {
                **priority,
                "reservations": {"affinity": "Specific", "specific": [{"name": name, **shared, "zones": zones}]},
            }
        case "spot":
            priority["spot"] = True
        case "flex-start":
            priority["flexStart"] = {"enabled": True}
    return {**priority, "location": {"zones": zones}}


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
            *_load_balancer(spec),
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


def _load_balancer(spec: Spec) -> list[Manifest]:
    """The ranges of what brings in the requests for `expose`, at the ports that it serves."""
    if spec.expose is None:
        return []
    ports = ["serve", *(["dashboard"] if spec.expose.dashboard else [])]
    ranges = [{"ipBlock": {"cidr": cidr}} for cidr in (*_LOAD_BALANCERS, *spec.expose.proxy_ranges)]
    return [{"from": ranges, "ports": [_tcp(names.PORTS[port]) for port in ports]}]


def _tcp(port: int) -> Manifest:
    return {"protocol": "TCP", "port": port}

"""Emulated nodes of GKE: objects with the labels, taints and devices that GKE gives. The real scheduler places pods on them.

Labels and taints are those that GKE documents; the DRANET driver's slices follow google/dranet's documentation for v6e. What
the class netdev.google.com selects is a guess: no source shows it.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import httpx

from apps.slice.topology import slice_of
from emulation.kubernetes.nodes.api import Api, Json
from emulation.kubernetes.nodes.pod_status import now
from kuberay.gke.resources import DEFAULT_MACHINE

POOL = "cloud.google.com/gke-nodepool"
KUBELET_PORT = 10250
_ZONE = {"topology.kubernetes.io/region": "us-east5", "topology.kubernetes.io/zone": "us-east5-b"}
_TPU_HOST = {"cpu": "180", "memory": "720Gi", "ephemeral-storage": "100Gi", "pods": "110", "google.com/tpu": "4"}
_CPU_HOST = {"cpu": "7910m", "memory": "28Gi", "ephemeral-storage": "47Gi", "pods": "110"}  # what 8 CPU and 32 GB have to give
_TPU_TAINT = {"key": "google.com/tpu", "value": "present", "effect": "NoSchedule"}
_DRIVER = "dra.net"
_NETWORK_CARDS = 2  # that a ct6e-standard-4t has beside its first


class Cloud:
    """Node pools of one cluster. Every node is Ready at once and stays so."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._addresses = 0
        self._add_device_class()

    def add_cpu_pool(self, name: str = "default-pool", nodes: int = 1) -> list[str]:
        """Machines as `gke.py` makes them. The names of the nodes."""
        labels = {"node.kubernetes.io/instance-type": DEFAULT_MACHINE}
        return [self._add_node(f"gke-{name}-{i}", name, labels, _CPU_HOST, []) for i in range(nodes)]

    def add_tpu_pool(
        self, name: str, topology: str = "4x4", *, dranet: bool = True, labels: Mapping[str, str] | None = None
    ) -> list[str]:
        """The hosts of one v6e slice, with the TPU taint. `labels` are added, for example those of spot machines."""
        return [
            self.add_tpu_node(name, i, topology, dranet=dranet, labels=labels) for i in range(slice_of("v6e", topology).hosts)
        ]

    def add_tpu_node(
        self, pool: str, index: int, topology: str = "4x4", *, dranet: bool = True, labels: Mapping[str, str] | None = None
    ) -> str:
        """One host of a slice, for example one that was repaired."""
        shape = slice_of("v6e", topology)
        all_labels = {
            "cloud.google.com/gke-tpu-accelerator": shape.generation.gke_accelerator,
            "cloud.google.com/gke-tpu-topology": topology,
            "cloud.google.com/gke-accelerator-count": str(shape.chips_per_host),
            "node.kubernetes.io/instance-type": shape.machine_type,
            **({"cloud.google.com/gke-networking-dra-driver": "true"} if dranet else {}),
            **(labels or {}),
        }
        allocatable = {**_TPU_HOST, "google.com/tpu": str(shape.chips_per_host)}
        node = self._add_node(f"gke-{pool}-{index}", pool, all_labels, allocatable, [_TPU_TAINT])
        if dranet:
            self._publish_network_cards(node)
        return node

    def remove_node(self, name: str) -> None:
        """The machine is gone. Its pods go at once, where Kubernetes' own collector would take a minute."""
        self._api.delete(f"/api/v1/nodes/{name}")
        self._api.delete(f"/apis/resource.k8s.io/v1/resourceslices/{_slice_name(name)}")
        for pod in self._api.items("/api/v1/pods", fieldSelector=f"spec.nodeName={name}"):
            meta = pod["metadata"]
            self._api.delete(f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}", gracePeriodSeconds=0)

    def remove_all(self) -> None:
        for node in self.nodes():
            self.remove_node(node)
        self._api.delete("/apis/resource.k8s.io/v1/deviceclasses/netdev.google.com")

    def nodes(self, pool: str | None = None) -> list[str]:
        """Names of the nodes there are."""
        query = {"labelSelector": f"{POOL}={pool}"} if pool else {}
        return [node["metadata"]["name"] for node in self._api.items("/api/v1/nodes", **query)]

    def _add_node(
        self, name: str, pool: str, labels: Mapping[str, str], allocatable: Mapping[str, str], taints: list[Json]
    ) -> str:
        self._addresses += 1
        node = {
            "metadata": {
                "name": name,
                "labels": {
                    "kubernetes.io/arch": "amd64",
                    "kubernetes.io/os": "linux",
                    "kubernetes.io/hostname": name,
                    POOL: pool,
                    **_ZONE,
                    **labels,
                },
            },
            "spec": {"taints": taints, "providerID": f"gce://emulated/us-east5-b/{name}"},
        }
        self._api.create("/api/v1/nodes", node)
        status: dict[str, Any] = {
            "capacity": allocatable,
            "allocatable": allocatable,
            "addresses": [
                {"type": "InternalIP", "address": f"10.128.{self._addresses // 250}.{self._addresses % 250 + 2}"},
                {"type": "Hostname", "address": name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": KUBELET_PORT}},
            "conditions": [node_ready("True", "KubeletReady", "kubelet is posting ready status")],
            "nodeInfo": {
                "kubeletVersion": "v1.35.4-gke.1000000",
                "kubeProxyVersion": "",
                "containerRuntimeVersion": "emulated://1",
                "osImage": "emulated",
                "kernelVersion": "6",
                "operatingSystem": "linux",
                "architecture": "amd64",
                "machineID": name,
                "systemUUID": name,
                "bootID": name,
            },
        }
        self._api.merge(f"/api/v1/nodes/{name}/status", {"status": status})
        return name

    def _publish_network_cards(self, node: str) -> None:
        """Publish what the DRANET driver does on a node that has it."""
        devices = [
            {"name": f"eth{i}", "attributes": {f"{_DRIVER}/ifName": {"string": f"eth{i}"}, f"{_DRIVER}/rdma": {"bool": False}}}
            for i in range(1, _NETWORK_CARDS + 1)
        ]
        pool = {"name": node, "generation": 1, "resourceSliceCount": 1}
        spec = {"driver": _DRIVER, "nodeName": node, "pool": pool, "devices": devices}
        slice_of_node = {"metadata": {"name": _slice_name(node)}, "spec": spec}
        self._api.create("/apis/resource.k8s.io/v1/resourceslices", slice_of_node)

    def _add_device_class(self) -> None:
        """Make the class that comes with GKE itself."""
        expression = f'device.driver == "{_DRIVER}" && !device.attributes["{_DRIVER}"].rdma'
        device_class = {"metadata": {"name": "netdev.google.com"}, "spec": {"selectors": [{"cel": {"expression": expression}}]}}
        with suppress(httpx.HTTPStatusError):  # it is there already
            self._api.create("/apis/resource.k8s.io/v1/deviceclasses", device_class)


def node_ready(status: str, reason: str, message: str) -> Json:
    """A node's condition Ready."""
    times = {"lastHeartbeatTime": now(), "lastTransitionTime": now()}
    return {"type": "Ready", "status": status, "reason": reason, "message": message, **times}


def _slice_name(node: str) -> str:
    return f"{node}-{_DRIVER}"

"""What GKE's Ray TPU webhook does to RayClusters and pods, as pure functions on their JSON.

Source: ai-on-gke/kuberay-tpu-webhook, main.go. Left out, because this project's clusters have none of it: slices of slices,
multi-slice (MEGASCALE_*), TPU7x, and pods without KubeRay's index labels (KubeRay before 1.6).
"""

import math
from collections.abc import Iterator

from emulation.kubernetes.nodes.api import Json

_TOPOLOGY = "cloud.google.com/gke-tpu-topology"
_NODE_POOL = "cloud.google.com/gke-nodepool"
_REPLICA_NAME = "ray.io/worker-group-replica-name"
_LONGEST_NAME = 50
MISMATCH = "Number of workers in worker group not equal to specified topology"


class WebhookFailureError(Exception):
    """An HTTP error instead of an answer; the API server then refuses the object."""


def refusal(cluster: Json) -> str | None:
    """Why a RayCluster is refused; None if it is not."""
    for group in cluster["spec"].get("workerGroupSpecs", []):
        template = group["template"]["spec"]
        if template["containers"] and not _asks_for_tpu(template):
            continue
        topology = template.get("nodeSelector", {}).get(_TOPOLOGY)
        if not topology:
            raise WebhookFailureError("TPU topology not specified")
        if _hosts(topology, template) != group.get("numOfHosts", 0):
            return MISMATCH
    return None


def patches(pod: Json) -> list[Json]:
    """The JSON patch of a pod; empty for one that asks for no TPU."""
    spec, labels = pod["spec"], pod["metadata"].get("labels", {})
    if not _asks_for_tpu(spec):
        return []
    topology = spec.get("nodeSelector", {}).get(_TOPOLOGY)
    if not topology or not {"ray.io/cluster", "ray.io/group"} <= labels.keys():
        raise WebhookFailureError("Failed to mutate Pod")
    group, hosts = labels["ray.io/group"], _hosts(topology, spec)
    # A single host has no host index: KubeRay gives it to groups of several hosts alone.
    replica, host = (labels.get(f"ray.io/{kind}", "0") for kind in ("worker-group-replica-index", "replica-host-index"))
    subdomain = f"{labels['ray.io/cluster']}-headless"[-_LONGEST_NAME:]  # which KubeRay itself stopped to cut in 1.4
    operations: list[Json] = []
    if hosts > 1:
        operations += [
            {"op": "add", "path": "/spec/hostname", "value": f"{group}-{replica}-{host}"},
            {"op": "add", "path": "/spec/subdomain", "value": subdomain},
            {"op": "add", "path": "/spec/affinity", "value": _affinity(spec.get("affinity", {}), labels)},
        ]
    names = ",".join(f"{group}-{replica}-{i}.{subdomain}" for i in range(hosts)) if hosts > 1 else None
    for index, container in enumerate(spec["containers"]):
        if _chips(container):
            operations += _environment(index, container, names, host, f"{group}-{replica}")
    return operations


def _environment(index: int, container: Json, names: str | None, host: str, slice_name: str) -> Iterator[Json]:
    there = {variable["name"]: variable.get("value", "") for variable in container.get("env", [])}
    wanted: list[Json] = []
    if names and there.get("TPU_WORKER_HOSTNAMES", "") in ("", "localhost"):
        wanted.append({"name": "TPU_WORKER_HOSTNAMES", "value": names})
    if there.get("TPU_WORKER_ID", "") in ("", "0") and there.get("TPU_WORKER_ID") != host:
        wanted.append({"name": "TPU_WORKER_ID", "value": host})
    if not there.get("TPU_NAME"):
        wanted.append({"name": "TPU_NAME", "value": slice_name})
    if "TPU_DEVICE_PLUGIN_HOST_IP" not in there:
        wanted.append({"name": "TPU_DEVICE_PLUGIN_HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}})
    if not there.get("TPU_DEVICE_PLUGIN_ADDR"):
        wanted.append({"name": "TPU_DEVICE_PLUGIN_ADDR", "value": "$(TPU_DEVICE_PLUGIN_HOST_IP):2112"})
    if not there:
        yield {"op": "add", "path": f"/spec/containers/{index}/env", "value": []}
    for variable in wanted:
        yield {"op": "add", "path": f"/spec/containers/{index}/env/-", "value": variable}


def _affinity(before: Json, labels: Json) -> Json:
    """One replica's pods on one node pool, and no other cluster's or replica's pods on it."""

    def term(*expressions: Json, **more: Json) -> Json:
        return {"labelSelector": {"matchExpressions": list(expressions)}, "topologyKey": _NODE_POOL, **more}

    def label(key: str, operator: str, *values: str) -> Json:
        return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}

    replica, cluster = labels[_REPLICA_NAME], labels["ray.io/cluster"]
    everywhere = {"matchExpressions": [label("kubernetes.io/metadata.name", "NotIn", "kube-system")]}
    ours = label("ray.io/cluster", "In", cluster)
    same_replica = term(label(_REPLICA_NAME, "In", replica), ours)
    other_replicas = [
        term(label(_REPLICA_NAME, "NotIn", replica), ours),
        term(label("ray.io/cluster", "NotIn", cluster), label(_REPLICA_NAME, "Exists"), namespaceSelector=everywhere),
    ]
    return {
        **before,
        "podAffinity": _adding(before, "podAffinity", [same_replica]),
        "podAntiAffinity": _adding(before, "podAntiAffinity", other_replicas),
    }


def _adding(before: Json, kind: str, terms: list[Json]) -> Json:
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    old = before.get(kind, {})
    return {**old, required: [*old.get(required, []), *terms]}


def _asks_for_tpu(spec: Json) -> bool:
    return any(_chips(container) for container in spec["containers"])


def _chips(container: Json) -> int:
    resources = container.get("resources", {})
    return int(resources.get("requests", {}).get("google.com/tpu") or resources.get("limits", {}).get("google.com/tpu") or 0)


def _hosts(topology: str, spec: Json) -> int:
    chips = math.prod(int(side) for side in topology.split("x"))
    return max(chips // sum(_chips(container) for container in spec["containers"]), 1)

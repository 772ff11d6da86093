"""Find the hosts of each slice that are alive now, from Ray's own node labels."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SLICE_NAME = "ray.io/tpu-slice-name"
WORKER_ID = "ray.io/tpu-worker-id"
POD_TYPE = "ray.io/tpu-pod-type"


@dataclass(frozen=True)
class Host:
    """One living host of a slice."""

    slice_name: str
    worker_id: int
    node_id: str
    address: str
    port: int
    """Port of Ray's node manager."""


def living_hosts(nodes: Iterable[Mapping[str, Any]], pod_type: str) -> dict[str, dict[int, Host]]:
    """Hosts by slice name and worker id, of all slices of a pod type (`v6e-16`), from `ray.nodes()`."""
    slices: dict[str, dict[int, Host]] = defaultdict(dict)
    for node in nodes:
        labels = node["Labels"]
        if not node["Alive"] or labels.get(POD_TYPE) != pod_type or not labels.get(WORKER_ID, "").isdigit():
            continue
        endpoint = node["NodeManagerAddress"], node["NodeManagerPort"]
        host = Host(labels[SLICE_NAME], int(labels[WORKER_ID]), node["NodeID"], *endpoint)
        slices[host.slice_name][host.worker_id] = host
    return dict(slices)


def host_name(node: Mapping[str, Any]) -> str:
    """A readable name for a node of `ray.nodes()`: `slice-a/2` for a host of a slice, else part of Ray's id."""
    labels = node["Labels"]
    return f"{labels[SLICE_NAME]}/{labels[WORKER_ID]}" if SLICE_NAME in labels else f"node-{node['NodeID'][:8]}"


def missing(hosts: Mapping[int, Host], expected: int) -> list[int]:
    """Worker ids from 0 to `expected` - 1 that are missing."""
    return [worker_id for worker_id in range(expected) if worker_id not in hosts]


def describe_missing(slice_name: str, hosts: Mapping[int, Host], expected: int) -> str:
    """A line such as `slice-a: hosts 1, 3 of 4 are missing (there: 0 at 10.0.0.4, 2 at 10.0.0.6)`."""
    gone = ", ".join(str(worker_id) for worker_id in missing(hosts, expected))
    there = ", ".join(f"{worker_id} at {host.address}" for worker_id, host in sorted(hosts.items())) or "none"
    verb = "is" if "," not in gone else "are"
    return f"{slice_name}: host{'s' if verb == 'are' else ''} {gone} of {expected} {verb} missing (there: {there})"

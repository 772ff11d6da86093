"""Hosts that are told to go: Ray marks a node as draining when its pod is ended or its spot machine is taken away.

The only module that asks Ray's private GCS client (pinned: Ray 2.60.0), as draining nodes are in no public API; if it goes, a
slice that loses a host is still noticed, only later.
"""

import math
import time
from collections.abc import Collection

import ray
from ray.core.generated import autoscaler_pb2

_NO_END = 0  # Ray's own sign for it


def draining() -> dict[str, float]:
    """Nodes that will be gone, by their ids, with the seconds that they have left (infinity where no end was given)."""
    found: dict[str, int] = _gcs().get_draining_nodes()
    now = time.time()
    return {node_id: end_ms / 1000 - now if end_ms != _NO_END else math.inf for node_id, end_ms in found.items()}


def drain(node_ids: Collection[str], left_s: float, why: str) -> None:
    """Mark nodes as draining: Serve moves their replicas away while they answer what they have begun."""
    end_ms = int((time.time() + left_s) * 1000) if math.isfinite(left_s) else _NO_END
    for node_id in node_ids:
        _gcs().drain_node(node_id, autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, why, end_ms)


def _gcs() -> "ray._raylet.GcsClient":
    return ray._private.worker.global_worker.gcs_client

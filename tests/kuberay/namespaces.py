"""A namespace for one test, and what a test waits for in it."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from emulation.kubernetes.nodes.api import Api, Json, wait_for
from tests.kuberay.plane import ControlPlane

_READY_S = 20
_GONE_S = 60
_OWNERS = ("ray.io/v1/rayservices", "ray.io/v1/rayjobs", "ray.io/v1/rayclusters", "batch/v1/jobs", "apps/v1/deployments")


@contextmanager
def made_namespace(plane: ControlPlane) -> Iterator[str]:
    """Deleted at the end, when nothing runs in it any more."""
    name, api = f"test-{uuid.uuid4().hex[:8]}", plane.api
    api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    wait_for(lambda: api.find(account), _READY_S, f"{account} is not made")
    try:
        yield name
    finally:
        cleared(plane, name)


def cleared(plane: ControlPlane, name: str) -> None:
    """Delete a namespace and all that is in it; return when no pod runs in it any more."""
    api = plane.api
    if api.find(f"/api/v1/namespaces/{name}") is None:
        return
    # Owners first, or they make their pods anew; and Kubernetes itself would wait out the pods' time of grace.
    for kind in _OWNERS:
        api.delete(f"/apis/{kind.replace('/v1/', f'/v1/namespaces/{name}/')}", propagationPolicy="Background")
    of_namespace = f"/api/v1/namespaces/{name}/pods"

    def gone() -> bool:
        api.delete(of_namespace, gracePeriodSeconds=0)  # again, for those that an owner has made at its end
        return not api.items(of_namespace)

    api.delete(of_namespace, gracePeriodSeconds=0)
    api.delete(f"/api/v1/namespaces/{name}")
    wait_for(gone, _GONE_S, f"pods of {name} stay")


def pods(api: Api, namespace: str, labels: str = "") -> list[Json]:
    """Pods of a namespace, by name; those that are being deleted are left out."""
    all_pods = api.items(f"/api/v1/namespaces/{namespace}/pods", labelSelector=labels)
    return sorted(
        (pod for pod in all_pods if "deletionTimestamp" not in pod["metadata"]), key=lambda pod: str(pod["metadata"]["name"])
    )


def is_ready(pod: Json) -> bool:
    return condition(pod, "Ready").get("status") == "True"


def condition(thing: Json, kind: str) -> Json:
    """A condition of anything's status; empty if it has none of that type."""
    return next((c for c in thing.get("status", {}).get("conditions", []) if c["type"] == kind), {})

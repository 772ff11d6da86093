"""The operator's RayCluster for real: its own `ray start` commands run, and Ray finds a whole TPU slice."""

import json
import time

import pytest

from runtime_env.control_plane.played.api import wait_for
from runtime_env.control_plane.played.cloud import Cloud
from tests.kuberay.manifests import ray_cluster
from tests.kuberay.namespaces import is_ready, pods
from tests.kuberay.plane import ControlPlane

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("tpu_webhook", "real_kubelet")
def test_ray_status_shows_sixteen_chips(control_plane: ControlPlane, cloud: Cloud, real_namespace: str) -> None:
    api, namespace = control_plane.api, real_namespace
    cloud.add_cpu_pool()
    cloud.add_tpu_pool("slice-a")
    started = time.monotonic()
    control_plane.apply(ray_cluster(), namespace=namespace)
    try:
        wait_for(lambda: [is_ready(pod) for pod in pods(api, namespace)] == [True] * 5, 90, "not all pods are Ready")
    finally:
        for pod in pods(api, namespace):
            print(pod["metadata"]["name"], pod["status"].get("containerStatuses"))
            print(control_plane.kubectl("logs", "-n", namespace, pod["metadata"]["name"], "--all-containers", "--tail=30"))
    print(f"Ready after {time.monotonic() - started:.0f} s")
    nodes = json.loads(
        control_plane.kubectl(
            "get", "--raw", f"/api/v1/namespaces/{namespace}/services/gemma-head-svc:dashboard/proxy/api/v0/nodes?detail=1"
        )
    )
    print(json.dumps(nodes)[:3000])

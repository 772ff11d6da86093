"""GKE's webhook as played: what it refuses, what it adds, and the cluster without it."""

import subprocess

import pytest

from emulation.kubernetes.nodes.api import Json, wait_for
from emulation.kubernetes.nodes.cloud import Cloud
from emulation.kubernetes.nodes.webhook import TpuWebhook
from emulation.kubernetes.nodes.webhook_rules import patches
from tests.kuberay.manifests import ray_cluster
from tests.kuberay.namespaces import pods
from tests.kuberay.plane import ControlPlane

pytestmark = pytest.mark.full
_WORKERS = "ray.io/node-type=worker"


def variables(worker: Json) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in worker["spec"]["containers"][0]["env"]}


@pytest.mark.usefixtures("cloud")
def test_workers_know_their_place_in_the_slice(control_plane: ControlPlane, namespace: str, tpu_webhook: TpuWebhook) -> None:
    control_plane.apply(ray_cluster(), namespace=namespace)
    workers = wait_for(lambda: (w := pods(control_plane.api, namespace, _WORKERS)) and len(w) == 4 and w, 20, "no four workers")
    names = ",".join(f"tpu-0-{i}.gemma-headless" for i in range(4))
    for worker in workers:
        host, found = worker["metadata"]["labels"]["ray.io/replica-host-index"], variables(worker)
        assert found["TPU_WORKER_HOSTNAMES"] == names
        assert (found["TPU_WORKER_ID"], found["TPU_NAME"]) == (host, "tpu-0")
        assert (worker["spec"]["hostname"], worker["spec"]["subdomain"]) == (f"tpu-0-{host}", "gemma-headless")
    assert ("RayCluster", "gemma") in tpu_webhook.reviewed


@pytest.mark.usefixtures("tpu_webhook")
def test_a_wrong_number_of_hosts_is_refused(control_plane: ControlPlane, namespace: str) -> None:
    cluster = ray_cluster()
    cluster["spec"]["workerGroupSpecs"][0]["numOfHosts"] = 2
    with pytest.raises(subprocess.CalledProcessError) as refused:
        control_plane.apply(cluster, namespace=namespace)
    assert "Number of workers in worker group not equal to specified topology" in refused.value.stderr


def test_a_cluster_may_lack_it(control_plane: ControlPlane, cloud: Cloud, namespace: str) -> None:
    cloud.add_cpu_pool()
    control_plane.apply(ray_cluster(), namespace=namespace)
    workers = wait_for(lambda: pods(control_plane.api, namespace, _WORKERS), 20, "no workers")
    assert "TPU_WORKER_ID" not in variables(workers[0])
    assert "subdomain" not in workers[0]["spec"]


def test_long_names_get_a_subdomain_that_no_service_has() -> None:
    """KubeRay stopped to cut the service's name in 1.4; the webhook still cuts."""
    worker = ray_cluster()["spec"]["workerGroupSpecs"][0]["template"]
    name = "a" * 20 + "b" * 22
    labels = {"ray.io/cluster": name, "ray.io/group": "tpu", "ray.io/worker-group-replica-name": "tpu-x"}
    found = {patch["path"]: patch["value"] for patch in patches({**worker, "metadata": {"labels": labels}})}
    assert found["/spec/subdomain"] == f"{name}-headless"[1:]

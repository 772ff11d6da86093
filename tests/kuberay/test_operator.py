"""A RayCluster in the real control plane: the operator makes the pods, the scheduler places them, kubelets are played."""

import pytest

from emulation.kubernetes.nodes.api import Api, Json, wait_for
from emulation.kubernetes.nodes.cloud import Cloud
from emulation.kubernetes.nodes.kubelet import Kubelet
from emulation.kubernetes.nodes.webhook import TpuWebhook
from tests.kuberay.manifests import claim_template, ray_cluster
from tests.kuberay.namespaces import condition, is_ready, pods
from tests.kuberay.plane import ControlPlane

pytestmark = pytest.mark.full
_REPLICA = "ray.io/worker-group-replica-name"
_WORKERS = "ray.io/node-type=worker"


def ready_pods(api: Api, namespace: str) -> list[Json]:
    """All five, Ready."""

    def look() -> list[Json]:
        found = pods(api, namespace)
        return found if len(found) == 5 and all(is_ready(pod) for pod in found) else []

    return list(wait_for(look, 30, lambda: str([(p["metadata"]["name"], p["status"]) for p in pods(api, namespace)])))


@pytest.mark.usefixtures("tpu_webhook")
def test_a_cluster_comes_up_on_one_slice_and_goes_without_a_trace(
    control_plane: ControlPlane, cloud: Cloud, namespace: str
) -> None:
    api = control_plane.api
    cloud.add_cpu_pool()
    slices = {pool: cloud.add_tpu_pool(pool) for pool in ("slice-a", "slice-b")}
    control_plane.apply(claim_template(), ray_cluster(claim=True), namespace=namespace)
    ready_pods(api, namespace)
    workers = pods(api, namespace, _WORKERS)
    assert len({pod["metadata"]["labels"][_REPLICA] for pod in workers}) == 1
    assert sorted(pod["metadata"]["labels"]["ray.io/replica-host-index"] for pod in workers) == ["0", "1", "2", "3"]
    assert {pod["spec"]["nodeName"] for pod in workers} in [set(nodes) for nodes in slices.values()]
    assert len({pod["status"]["podIP"] for pod in pods(api, namespace)}) == 5
    claims = api.items(f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims")
    assert [len(claim["status"]["allocation"]["devices"]["results"]) for claim in claims] == [2, 2, 2, 2]
    cluster = f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters/gemma"
    wait_for(
        lambda: api.get(cluster).get("status", {}).get("readyWorkerReplicas") == 4, 10, "the operator counts no ready workers"
    )
    assert condition(api.get(cluster), "HeadPodReady")["status"] == "True"
    services = {service["metadata"]["name"] for service in api.items(f"/api/v1/namespaces/{namespace}/services")}
    assert services == {"gemma-head-svc", "gemma-headless"}
    api.delete(cluster)
    left = (
        "/api/v1/namespaces/{}/pods",
        "/api/v1/namespaces/{}/services",
        "/apis/resource.k8s.io/v1/namespaces/{}/resourceclaims",
    )
    wait_for(lambda: not any(api.items(path.format(namespace)) for path in left), 30, "something is left")


def test_one_lost_host_costs_the_whole_slice(
    control_plane: ControlPlane, cloud: Cloud, kubelet: Kubelet, namespace: str, tpu_webhook: TpuWebhook
) -> None:
    api = control_plane.api
    cloud.add_cpu_pool()
    cloud.add_tpu_pool("slice-a")
    control_plane.apply(ray_cluster(), namespace=namespace)
    before = [pod["metadata"] for pod in ready_pods(api, namespace) if pod["metadata"]["labels"]["ray.io/group"] == "tpu"]
    kubelet.fail(before[2]["name"], exit_code=137, reason="OOMKilled")
    uids = {meta["uid"] for meta in before}
    wait_for(
        lambda: not uids & {pod["metadata"]["uid"] for pod in pods(api, namespace)}, 20, "pods of the broken slice are left"
    )
    after = [pod["metadata"] for pod in ready_pods(api, namespace) if pod["metadata"]["labels"]["ray.io/group"] == "tpu"]
    assert {meta["labels"][_REPLICA] for meta in after}.isdisjoint(meta["labels"][_REPLICA] for meta in before)
    assert ("Pod", after[0]["generateName"]) in tpu_webhook.reviewed


def test_without_a_slice_the_pods_say_what_they_wait_for(control_plane: ControlPlane, cloud: Cloud, namespace: str) -> None:
    api = control_plane.api
    cloud.add_cpu_pool()
    control_plane.apply(ray_cluster(), namespace=namespace)
    workers = wait_for(lambda: pods(api, namespace, _WORKERS), 20, "no workers")
    scheduled = wait_for(lambda: condition(api.get(_path(workers[0])), "PodScheduled"), 10, "the scheduler says nothing")
    assert scheduled["reason"] == "Unschedulable"
    assert "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector" in scheduled["message"]
    cloud.add_tpu_pool("slice-a")
    ready_pods(api, namespace)
    nodes = {pod["spec"]["nodeName"] for pod in pods(api, namespace, _WORKERS)}
    assert nodes == set(cloud.nodes("slice-a"))


def _path(pod: Json) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"

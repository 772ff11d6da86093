"""`doctor`: every trouble that it knows, provoked, is found with its evidence and its fix; a sound cluster is sound."""

import json
from typing import Any

import pytest

from emulation.kubernetes.nodes.api import Json, wait_for
from emulation.kubernetes.nodes.cloud import Cloud
from emulation.kubernetes.nodes.kubelet import Kubelet
from tests.kuberay.deployment import Deployment
from tests.kuberay.faulty_proxy import FaultyProxy
from tests.kuberay.plane import ControlPlane

pytestmark = pytest.mark.full
_CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/rayclusters.ray.io"
_DEVICE_CLASS = "/apis/resource.k8s.io/v1/deviceclasses/netdev.google.com"


def findings(deployment: Deployment, check: str) -> list[Json]:
    """What `doctor --json` reports under that name."""
    done = deployment.run("doctor", "--json")
    diagnoses = json.loads(done.out)
    assert done.code == (1 if any(diagnosis["severity"] == "error" for diagnosis in diagnoses) else 0), done.err
    return [diagnosis for diagnosis in diagnoses if diagnosis["check"] == check]


def finding(deployment: Deployment, check: str) -> tuple[str, str, Json]:
    (diagnosis,) = findings(deployment, check)
    return diagnosis["severity"], diagnosis["evidence"], diagnosis


def on_gke(proxy: FaultyProxy, deployment: Deployment, version: str) -> None:
    proxy.replace({"major": "1", "minor": "35", "gitVersion": version}, path="/version")
    deployment.kubeconfig = proxy.kubeconfig


@pytest.mark.usefixtures("slice_nodes")
def test_a_sound_deployment(deployment: Deployment, faulty_proxy: FaultyProxy) -> None:
    on_gke(faulty_proxy, deployment, "v1.36.1-gke.1000000")
    deployment.apply()
    deployment.give_secrets()
    deployment.do("wait", "--timeout=60")
    done = deployment.run("doctor")
    assert done.code == 0, done.out
    assert [line for line in done.out.splitlines() if line.startswith("✗")] == []
    for line in (
        "✓ GKE version",
        "✓ KubeRay's types",
        "✓ TPU webhook",
        "✓ DRANET",
        "✓ TPU nodes: 4 nodes",
        "✓ rights",
        "✓ pods",
    ):
        assert line in done.out
    assert "! head: fault_tolerance is not set" in done.out


@pytest.mark.usefixtures("slice_nodes")
def test_it_changes_nothing(deployment: Deployment, faulty_proxy: FaultyProxy) -> None:
    deployment.apply()
    deployment.kubeconfig = faulty_proxy.kubeconfig
    deployment.run("doctor")
    assert faulty_proxy.count("GET") > 10
    reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    assert {(r.verb, r.path) for r in faulty_proxy.requests if r.verb != "GET"} == {("POST", reviews)}


def test_a_gke_that_is_too_old(deployment: Deployment, faulty_proxy: FaultyProxy) -> None:
    on_gke(faulty_proxy, deployment, "v1.34.1-gke.1829000")
    severity, evidence, diagnosis = finding(deployment, "GKE version")
    assert severity == "error"
    assert "v1.34.1-gke.1829000" in evidence
    assert "upgrade the cluster" in diagnosis["fix"]
    faulty_proxy.heal()
    assert finding(deployment, "GKE version")[0] == "unknown"


def test_kuberay_missing_too_old_and_not_running(deployment: Deployment, faulty_proxy: FaultyProxy) -> None:
    real = deployment.plane.api.get(_CRD)
    deployment.kubeconfig = faulty_proxy.kubeconfig
    assert finding(deployment, "KubeRay's types")[0] == "ok"
    assert finding(deployment, "KubeRay operator")[0] == "unknown"
    version = next(version for version in real["spec"]["versions"] if version["name"] == "v1")
    del version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["upgradeStrategy"]
    faulty_proxy.replace(real, path=_CRD)
    severity, evidence, _ = finding(deployment, "KubeRay's types")
    assert (severity, "has no upgradeStrategy" in evidence) == ("error", True)
    faulty_proxy.heal()
    faulty_proxy.answer(404, times=10, path=_CRD)
    assert "KubeRay is not installed" in finding(deployment, "KubeRay's types")[1]


@pytest.mark.parametrize(
    ("tag", "available", "severity"), [("v1.5.1", 1, "error"), ("v1.6.2", 0, "error"), ("v1.6.2", 1, "ok")]
)
def test_the_operators_version(
    deployment: Deployment, faulty_proxy: FaultyProxy, tag: str, available: int, severity: str
) -> None:
    containers = [{"name": "kuberay-operator", "image": f"quay.io/kuberay/operator:{tag}"}]
    operator = {
        "metadata": {"name": "kuberay-operator", "namespace": "ray-system"},
        "spec": {"template": {"spec": {"containers": containers}}},
        "status": {"availableReplicas": available},
    }
    faulty_proxy.replace(
        {"kind": "DeploymentList", "apiVersion": "apps/v1", "items": [operator]}, path="/apis/apps/v1/deployments"
    )
    deployment.kubeconfig = faulty_proxy.kubeconfig
    found_severity, evidence, _ = finding(deployment, "KubeRay operator")
    assert found_severity == severity
    assert tag in evidence


def test_a_cluster_without_the_webhook(deployment: Deployment, cloud: Cloud) -> None:
    severity, evidence, diagnosis = finding(deployment, "TPU webhook")
    assert (severity, evidence) == ("error", "no webhook for TPU pods is registered")
    cloud.add_cpu_pool()
    cloud.add_tpu_pool("slice-a")
    deployment.apply()
    deployment.until_ready()
    severity, evidence, diagnosis = finding(deployment, "TPU webhook")
    assert (severity, "has no TPU_WORKER_ID" in evidence) == ("error", True)
    assert "RayOperator add-on" in diagnosis["fix"]
    assert diagnosis["link"].startswith("https://github.com/ai-on-gke/")


@pytest.mark.usefixtures("tpu_webhook")
def test_the_nodes(deployment: Deployment, cloud: Cloud) -> None:
    assert "0 of 4" in finding(deployment, "TPU nodes")[1]
    cloud.add_tpu_pool("wrong", topology="2x4")
    assert "none 4x4" in finding(deployment, "TPU nodes")[1]
    (first, *_) = cloud.add_tpu_pool("slice-a")
    assert finding(deployment, "TPU nodes")[0] == "ok"
    cloud.remove_node(first)
    assert "3 of 4" in finding(deployment, "TPU nodes")[1]
    cloud.add_tpu_node("slice-a", 0)
    broken = {"status": {"allocatable": {"google.com/tpu": "0"}}}
    deployment.plane.api.merge(f"/api/v1/nodes/{first}/status", broken)
    assert "offers 0 of 4 chips" in finding(deployment, "TPU nodes")[1]


@pytest.mark.usefixtures("slice_nodes")
def test_dranet_is_missing(deployment: Deployment) -> None:
    assert finding(deployment, "DRANET")[0] == "ok"
    deployment.plane.api.delete(_DEVICE_CLASS)
    severity, evidence, _ = finding(deployment, "DRANET")
    assert (severity, "can never be met" in evidence) == ("error", True)


@pytest.mark.usefixtures("slice_nodes")
def test_an_image_edit_that_does_nothing(deployment: Deployment) -> None:
    deployment.apply()
    deployment.until_ready()
    deployment.plane.api.merge(deployment.cluster_path, {"spec": {"upgradeStrategy": {"type": "None"}}})
    deployment.change(image="us-east5-docker.pkg.dev/my-project/ray-tpu-serve/server:0.2.0")
    severity, evidence, diagnosis = finding(deployment, "image")
    assert (severity, "server:0.1.0, the spec wants" in evidence) == ("warning", True)
    assert "upgradeStrategy is None" in diagnosis["fix"]


@pytest.mark.usefixtures("slice_nodes")
def test_hosts_of_an_older_kuberay_are_orphans(deployment: Deployment, control_plane: ControlPlane) -> None:
    deployment.apply()
    deployment.until_ready()
    with control_plane.paused("ray-operator"):
        adopt(deployment, "old", {"ray.io/worker-group-replica-name": None, "ray.io/replica-host-index": None})
        severity, evidence, _ = finding(deployment, "orphaned hosts")
    assert (severity, "KubeRay does not own them" in evidence) == ("error", True)


@pytest.mark.usefixtures("slice_nodes")
def test_a_slice_with_a_host_twice(deployment: Deployment, control_plane: ControlPlane) -> None:
    deployment.apply()
    deployment.until_ready()
    with control_plane.paused("ray-operator"):
        adopt(deployment, "twin", {"ray.io/replica-host-index": "0"})
        severity, evidence, _ = finding(deployment, "slice")
    assert (severity, "has hosts [0, 0, 1, 2, 3] of 4" in evidence) == ("warning", True)


def adopt(deployment: Deployment, name: str, labels: dict[str, str | None]) -> None:
    """A pod like the first host's, with labels changed or removed, that nobody owns."""
    model = deployment.hosts()[0]
    changed = {**model["metadata"]["labels"], **labels}
    left = {key: value for key, value in changed.items() if value is not None}
    containers = [{"name": "ray-worker", "image": model["spec"]["containers"][0]["image"]}]
    pod = {"metadata": {"name": name, "labels": left}, "spec": {"containers": containers}}
    deployment.plane.kubectl(
        "label", "--overwrite", "namespace", deployment.namespace, "pod-security.kubernetes.io/enforce=privileged"
    )
    deployment.plane.api.create(deployment.path("pods"), pod)


@pytest.mark.usefixtures("slice_nodes")
def test_a_status_that_is_not_true_any_more(deployment: Deployment, kubelet: Kubelet) -> None:
    deployment.apply()
    deployment.until_ready()
    wait_for(lambda: deployment.cluster().get("status", {}).get("state") == "ready", 20, "KubeRay does not call it ready")
    kubelet.orders.unready.add("gemma-tpu-worker-*")
    wait_for(lambda: not all(is_ready_host(pod) for pod in deployment.hosts()), 20, "the hosts stay ready")
    severity, evidence, diagnosis = finding(deployment, "status.state")
    assert (severity, "its pods are not" in evidence, "2188" in diagnosis["link"]) == ("warning", True, True)
    waiting = [
        diagnosis
        for diagnosis in json.loads(deployment.run("doctor", "--json").out)
        if "does not answer its probe" in diagnosis["evidence"]
    ]
    assert waiting


def is_ready_host(pod: Json) -> bool:
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in pod["status"]["conditions"])


@pytest.mark.usefixtures("slice_nodes")
def test_a_name_that_the_webhook_cuts(deployment: Deployment) -> None:
    """KubeRay before 1.4 gave a RayService's cluster a longer name."""
    deployment.change(kind="RayService")
    deployment.do("apply", "--dry-run")
    deployment.make_namespace()
    name = "gemma-raycluster-with-a-name-that-is-too-long"
    template = {"spec": {"containers": [{"name": "ray-head", "image": "x"}]}}
    head = {"rayStartParams": {}, "template": template}
    meta = {"name": name, "labels": {"ray.io/originated-from-cr-name": "gemma"}}
    cluster = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": meta, "spec": {"headGroupSpec": head}}
    deployment.plane.api.create(deployment.path("rayclusters", group="ray.io/v1"), cluster)
    severity, evidence, diagnosis = finding(deployment, "name")
    assert (severity, "45 characters" in evidence, "2923" in diagnosis["link"]) == ("error", True, True)


def test_what_pods_refer_to_is_missing(deployment: Deployment) -> None:
    deployment.change(api_keys="our-keys", fault_tolerance={"address": "redis:6379", "password": {"name": "redis", "key": "p"}})
    deployment.make_namespace()
    diagnoses = json.loads(deployment.run("doctor", "--json").out)
    missing = {diagnosis["check"] for diagnosis in diagnoses if diagnosis["evidence"] == "is not there, and pods refer to it"}
    secrets = {f"Secret/{name}" for name in ("our-keys", "hub-token", "redis")}
    assert missing == {"ServiceAccount/gemma-serve", "ResourceClaimTemplate/gemma-netdev", *secrets}
    assert all(diagnosis["severity"] == "error" for diagnosis in diagnoses if diagnosis["check"] in missing)
    assert findings(deployment, "head") == []  # with Redis the head may be lost


def test_a_quota_that_is_too_small(deployment: Deployment) -> None:
    deployment.make_namespace()
    quota = {"metadata": {"name": "tpus"}, "spec": {"hard": {"requests.google.com/tpu": "8"}}}
    deployment.plane.api.create(deployment.path("resourcequotas"), quota)
    severity, evidence, _ = finding(deployment, "quota")
    assert (severity, evidence) == ("error", "ResourceQuota/tpus allows 8 google.com/tpu, the spec needs 16")


def test_another_ray_than_the_images(deployment: Deployment) -> None:
    deployment.apply()
    deployment.plane.api.merge(deployment.cluster_path, {"spec": {"rayVersion": "2.55.0"}})
    severity, evidence, _ = finding(deployment, "Ray version")
    assert (severity, "has rayVersion 2.55.0" in evidence) == ("error", True)


@pytest.mark.usefixtures("slice_nodes")
def test_an_image_of_other_versions(deployment: Deployment, kubelet: Kubelet) -> None:
    kubelet.orders.last_words["versions"] = "error: ray is 2.55.0, and must be 2.60.0"
    deployment.apply()
    deployment.give_secrets()
    wait_for(lambda: findings(deployment, "image versions"), 20, "nothing is reported about the image")
    severity, evidence, diagnosis = finding(deployment, "image versions")
    assert severity == "error"
    assert evidence.endswith("error: ray is 2.55.0, and must be 2.60.0")
    assert "gke.py up" in diagnosis["fix"]
    evidences = [diagnosis["evidence"] for diagnosis in findings(deployment, "head")]
    assert any("exit code 1" in text and "error: ray is 2.55.0" in text for text in evidences), evidences
    kubelet.orders.last_words.clear()
    deployment.do("wait", "--timeout=60")
    assert finding(deployment, "image versions")[0] == "ok"


def test_a_check_that_fails_hides_no_other(deployment: Deployment, faulty_proxy: FaultyProxy) -> None:
    faulty_proxy.answer(400, times=10**6, path="/api/v1/nodes")
    deployment.kubeconfig = faulty_proxy.kubeconfig
    diagnoses: list[dict[str, Any]] = json.loads(deployment.run("doctor", "--json").out)
    assert next(diagnosis for diagnosis in diagnoses if diagnosis["check"] == "TPU nodes")["severity"] == "unknown"
    assert len(diagnoses) > 8

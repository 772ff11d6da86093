"""Ways in which a deployment got stuck for good, each on the real control plane with a node of the size that `gke.py` makes."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from emulation.kubernetes.nodes.api import Api, Json, wait_for
from emulation.kubernetes.nodes.cloud import Cloud
from emulation.kubernetes.nodes.kubelet import Kubelet
from tests.kuberay.deployment import Deployment
from tests.kuberay.plane import ROOT, ControlPlane
from tests.kuberay.test_wait import following

pytestmark = pytest.mark.full
_CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/rayclusters.ray.io"
_TYPO = "us-east5-docker.pkg.dev/my-project/ray-tpu-serve/server:0.9.9"


def jobs(deployment: Deployment) -> list[str]:
    return [job["metadata"]["name"] for job in deployment.plane.api.items(deployment.path("jobs", group="batch/v1"))]


@pytest.mark.usefixtures("slice_nodes")
def test_head_and_staging_fit_on_the_default_pool_and_a_typo_in_the_image_is_mended(
    deployment: Deployment, kubelet: Kubelet
) -> None:
    kubelet.orders.unpullable.add("*server:0.9.9")
    deployment.change(image=_TYPO)
    deployment.apply()
    with following(deployment) as wait:
        wait.until_printed("head: its image cannot be pulled", "weights: its image cannot be pulled")
    (typo,) = jobs(deployment)
    deployment.change()
    deployment.do("apply", "--yes")
    assert "4 of 4 hosts ready" in deployment.do("wait", "--timeout=60")
    assert typo not in jobs(deployment)
    assert {pod["spec"]["nodeName"] for pod in deployment.pods("ray.io/node-type=head")} == {"gke-default-pool-0"}


@pytest.mark.usefixtures("slice_nodes")
def test_who_holds_the_room_that_the_head_needs_is_named(deployment: Deployment, kubelet: Kubelet) -> None:
    deployment.prepare()
    kubelet.orders.held.add("greedy")
    limits = {"cpu": "6", "memory": "1Gi"}
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    context |= {"seccompProfile": {"type": "RuntimeDefault"}}
    container = {"name": "x", "image": "x", "resources": {"requests": limits, "limits": limits}, "securityContext": context}
    pod = {"metadata": {"name": "greedy"}, "spec": {"containers": [container]}}
    deployment.plane.api.create(deployment.path("pods"), pod)
    wait_for(lambda: deployment.plane.api.get(deployment.path("pods", "greedy"))["spec"].get("nodeName"), 20, "no node")
    deployment.do("apply")
    with following(deployment) as wait:
        wait.until_printed("head: waits for a node", "greedy holds 6 CPU of a node")


def test_somebody_who_has_left_loses_their_rights(deployment: Deployment) -> None:
    deployment.change(users={"viewers": ["user:anna@example.com"]})
    deployment.prepare()
    deployment.change()
    assert "-  name: anna@example.com" in deployment.do("diff")
    refused = deployment.run("apply")
    assert (refused.code, "removes RoleBinding/gemma-viewers" in refused.err) == (1, True), refused.text
    deployment.do("apply", "--yes")
    bindings = deployment.plane.api.items(deployment.path("rolebindings", group="rbac.authorization.k8s.io/v1"))
    assert [binding["metadata"]["name"] for binding in bindings if binding["metadata"]["name"].startswith("gemma")] == []


def test_nothing_is_removed_and_no_pod_wanted_while_a_secret_is_missing(deployment: Deployment) -> None:
    deployment.change(users={"viewers": ["user:anna@example.com"]})
    deployment.do("apply", "--part=platform")
    both = {"hub_token": {"name": "keys", "key": "token"}, "api_keys": "keys"}
    deployment.change(**both)
    refused = deployment.run("apply", "--yes")
    assert refused.code == 1
    command = f"kubectl -n {deployment.namespace} create secret generic keys --from-file=token=FILE --from-file=keys.json=FILE"
    assert refused.err.endswith(f"{command}\n")
    assert "removed" not in refused.out
    binding = deployment.path("rolebindings", "gemma-viewers", "rbac.authorization.k8s.io/v1")
    assert deployment.plane.api.find(binding)
    assert jobs(deployment) == []
    deployment.plane.api.create(deployment.path("secrets"), {"metadata": {"name": "keys"}})
    assert "removed  RoleBinding/gemma-viewers" in deployment.do("apply", "--yes")
    assert deployment.plane.api.find(binding) is None


@pytest.mark.usefixtures("slice_nodes")
def test_another_kind_and_no_metrics_leave_nothing_behind(deployment: Deployment) -> None:
    deployment.apply()
    deployment.until_ready()
    deployment.change(kind="RayService", metrics=False)
    output = deployment.do("apply", "--yes")
    for title in ("RayCluster/gemma", "PodMonitoring/gemma", "Rules/gemma", "ConfigMap/gemma-dashboards"):
        assert f"removed  {title}" in output
    wait_for(lambda: deployment.plane.api.find(deployment.cluster_path) is None, 30, "the old RayCluster stays")
    assert "4 of 4 hosts ready" in deployment.do("wait", "--timeout=60")
    assert "0 made, 0 changed" in deployment.do("apply")


@pytest.mark.usefixtures("slice_nodes")
def test_a_kuberay_before_1_6_gets_what_it_knows(deployment: Deployment) -> None:
    deployment.prepare()
    with without_fields(deployment, "upgradeStrategy"):
        output = deployment.do("apply")
        assert "note: this KubeRay (before 1.6) leaves running pods as they are" in output
        assert "upgradeStrategy" not in deployment.cluster()["spec"]
        assert "0 made, 0 changed" in deployment.do("apply")
        deployment.until_ready()
    with without_fields(deployment, "upgradeStrategy", "authOptions"):
        deployment.change(head={"cpu": "3"})
        refused = deployment.run("apply", "--yes")
        assert (refused.code, "install 1.6 or later (docs/gke.md#an-older-kuberay)" in refused.err) == (1, True), refused.text


def knows(api: Api, field: str) -> bool:
    """Whether the server has that field of a RayCluster's spec, by its own description."""
    schemas = api.get("/openapi/v3/apis/ray.io/v1")["components"]["schemas"]
    return field in schemas["io.ray.v1.RayCluster"]["properties"]["spec"]["properties"]


@contextmanager
def without_fields(deployment: Deployment, *fields: str) -> Iterator[None]:
    """The cluster's type as an older KubeRay has it."""
    api = deployment.plane.api

    def write(absent: tuple[str, ...]) -> None:
        crd = api.get(_CRD)
        version = next(version for version in crd["spec"]["versions"] if version["name"] == "v1")
        properties = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        for name in fields:
            properties[name] = known[name]
        for name in absent:
            del properties[name]
        api.merge(_CRD, {"spec": {"versions": crd["spec"]["versions"]}})
        wait_for(lambda: {name for name in fields if not knows(api, name)} == set(absent), 30, "the type stays as it was")

    (schema,) = (v["schema"]["openAPIV3Schema"] for v in api.get(_CRD)["spec"]["versions"] if v["name"] == "v1")
    known: Json = schema["properties"]["spec"]["properties"]
    write(fields)
    try:
        yield
    finally:
        write(())


@pytest.mark.usefixtures("slice_nodes")
def test_a_change_by_hand_is_shown_with_the_way_back(deployment: Deployment) -> None:
    deployment.apply()
    theirs = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "gemma"}}
    theirs["spec"] = {"rayVersion": "2.55.0"}
    apply = ("apply", "--server-side", "--force-conflicts", "--field-manager=anna", "-f-", "--validate=false")
    deployment.plane.kubectl(*apply, f"--namespace={deployment.namespace}", stdin=yaml.safe_dump(theirs))
    shown = deployment.do("diff")
    assert "-  rayVersion: 2.55.0" in shown
    assert 'conflict with "anna"' in shown
    assert "--force takes the fields over" in shown


def test_a_token_that_was_renewed_is_read_again_and_a_wrong_one_has_advice(
    deployment: Deployment, control_plane: ControlPlane
) -> None:
    deployment.make_namespace()
    account = deployment.path("serviceaccounts", "robot")
    deployment.plane.api.create(deployment.path("serviceaccounts"), {"metadata": {"name": "robot"}})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
    subjects = [{"kind": "ServiceAccount", "name": "robot", "namespace": deployment.namespace}]
    binding = {"metadata": {"name": "robot"}, "roleRef": role, "subjects": subjects}
    deployment.plane.api.create(deployment.path("rolebindings", group="rbac.authorization.k8s.io/v1"), binding)
    token = deployment.plane.api.create(f"{account}/token", {"spec": {"expirationSeconds": 3600}})["status"]["token"]
    kubeconfig, file = deployment.directory / "robot.kubeconfig", deployment.directory / "token"
    config = yaml.safe_load(control_plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"tokenFile": str(file)}
    kubeconfig.write_text(yaml.safe_dump(config))
    deployment.kubeconfig = kubeconfig
    file.write_text("stale")
    refused = deployment.run("status")
    assert (refused.code, "gcloud auth login" in refused.err) == (1, True), refused.text

    from kuberay.api import connect

    api = connect(str(kubeconfig))  # with the stale token
    file.write_text(token)
    assert api.objects("Pod", deployment.namespace) == []


def test_doctor_ends_quietly_where_nobody_reads_on(deployment: Deployment) -> None:
    script = f"{ROOT}/scripts/cluster.py doctor {deployment.spec} --kubeconfig={deployment.kubeconfig} | true"
    environment = {**os.environ, "PATH": f"{Path(ROOT / '.venv' / 'bin')}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stderr == ""


def test_an_emulated_pod_reaches_nobody_on_the_machines_own_network(deployment: Deployment, slice_nodes: Cloud) -> None:  # noqa: ARG001
    """The port of a pod in which nothing runs is refused, not dialled: it is somebody else's address, and there is a token."""
    deployment.apply()
    (head,) = (pod for pod in deployment.until_ready() if pod["metadata"]["labels"]["ray.io/node-type"] == "head")
    answer = deployment.plane.api.client.get(deployment.path("pods", f"{head['metadata']['name']}:8265/proxy/"))
    assert answer.status_code >= 500
    assert "this pod is emulated" in answer.text

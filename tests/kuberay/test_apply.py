"""`apply` and `diff` against the real API server and the real operator: what is made, what is left alone, what is refused."""

import dataclasses
import json
import re
from typing import Any

import pytest
import yaml

from emulation.kubernetes.nodes.api import Json, wait_for
from emulation.kubernetes.nodes.cloud import Cloud
from kuberay.api import ApiError, connect
from kuberay.objects import KINDS
from kuberay.render import manifests
from kuberay.spec import load
from tests.kuberay.deployment import Deployment
from tests.kuberay.specs import ROOT

pytestmark = pytest.mark.full
_ALERTS = {path.stem for path in (ROOT / "docs" / "alerts").glob("*.md")}
_OTHER_IMAGE = "us-east5-docker.pkg.dev/my-project/ray-tpu-serve/server:0.2.0"


def variables(pod: Json) -> dict[str, Any]:
    return {variable["name"]: variable.get("value") for variable in pod["spec"]["containers"][0]["env"]}


@pytest.mark.usefixtures("slice_nodes")
def test_one_apply_makes_a_head_and_one_whole_slice(deployment: Deployment) -> None:
    output = deployment.apply()
    assert f"made  Namespace/{deployment.namespace}" in output
    assert "made  RayCluster/gemma" in output
    head, *hosts = sorted(deployment.until_ready(), key=lambda pod: pod["metadata"]["labels"]["ray.io/node-type"])
    assert head["spec"]["nodeName"] == "gke-default-pool-0"
    assert len({pod["metadata"]["labels"]["ray.io/worker-group-replica-name"] for pod in hosts}) == 1
    assert {pod["spec"]["nodeName"] for pod in hosts} == {f"gke-slice-a-{i}" for i in range(4)}
    assert {variables(pod)["TPU_WORKER_ID"] for pod in hosts} == set("0123")
    for pod in (head, *hosts):
        assert variables(pod)["RAY_AUTH_MODE"] == "token"
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
    claims = deployment.plane.api.items(deployment.path("resourceclaims", group="resource.k8s.io/v1"))
    assert [len(claim["status"]["allocation"]["devices"]["results"]) for claim in claims] == [2] * 4
    services = {service["metadata"]["name"] for service in deployment.plane.api.items(deployment.path("services"))}
    assert services == {"gemma-head-svc", "gemma-headless", "gemma-serve-svc"}
    deployment.give_secrets()
    assert "head ready, 4 of 4 hosts ready" in deployment.do("wait", "--timeout=60")


@pytest.mark.usefixtures("slice_nodes")
def test_a_second_apply_changes_nothing_and_diff_is_empty(deployment: Deployment) -> None:
    deployment.apply()
    deployment.until_ready()
    generations = {live["metadata"]["name"]: live["metadata"]["generation"] for live in deployment_objects(deployment)}
    output = deployment.do("apply")
    assert "0 made, 0 changed" in output
    again = {live["metadata"]["name"]: live["metadata"]["generation"] for live in deployment_objects(deployment)}
    assert again == generations
    shown = deployment.run("diff")
    assert (shown.code, shown.out) == (0, "")
    assert "0 made, 0 changed" in shown.err


def deployment_objects(deployment: Deployment) -> list[Json]:
    plurals = {"rayclusters": "ray.io/v1", "jobs": "batch/v1", "networkpolicies": "networking.k8s.io/v1"}
    return [
        live for plural, group in plurals.items() for live in deployment.plane.api.items(deployment.path(plural, group=group))
    ]


def test_a_dry_run_changes_nothing(deployment: Deployment) -> None:
    api = deployment.plane.api
    output = deployment.do("apply", "--dry-run")
    assert "would be made" in output
    assert api.find(f"/api/v1/namespaces/{deployment.namespace}") is None
    deployment.apply()
    version = deployment.cluster()["metadata"]["resourceVersion"]
    deployment.change(head={"cpu": "8"})
    assert "1 would be changed" in deployment.do("apply", "--dry-run")
    assert re.search(r"^\+ +cpu: '8'$", deployment.do("diff"), re.MULTILINE)
    assert (
        deployment.cluster()["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "4"
    )
    assert int(deployment.cluster()["metadata"]["resourceVersion"]) >= int(version)


@pytest.mark.parametrize(
    ("place", "typo", "message"),
    [
        (("workerGroupSpecs", 0), "numOfHost", ".spec.workerGroupSpecs[0].numOfHost: field not declared in schema"),
        (("headGroupSpec", "template", "spec"), "nodeSelecter", "nodeSelecter"),
        ((), "upgradeStratgy", "upgradeStratgy"),
    ],
)
def test_the_server_refuses_typos(deployment: Deployment, place: tuple[Any, ...], typo: str, message: str) -> None:
    api = connect(str(deployment.kubeconfig))
    cluster = next(manifest for manifest in manifests(load(deployment.spec), "") if manifest["kind"] == "RayCluster")
    cluster["metadata"]["namespace"] = "default"
    target: Any = cluster["spec"]
    for key in place:
        target = target[key]
    target[typo] = 4
    with pytest.raises(ApiError, match=r"RayCluster/gemma: .*") as refused:
        api.apply(cluster, dry_run=True)
    assert message in str(refused.value)


@pytest.mark.usefixtures("slice_nodes")
def test_a_new_image_restarts_all_pods_and_only_with_yes(deployment: Deployment) -> None:
    deployment.apply()
    before = {pod["metadata"]["uid"] for pod in deployment.until_ready()}
    deployment.change(image=_OTHER_IMAGE)
    refused = deployment.run("apply")
    assert refused.code == 1
    assert "ends them all" in refused.err
    assert {pod["metadata"]["uid"] for pod in deployment.pods()} == before
    deployment.do("apply", "--yes")
    wait_for(lambda: not before & {pod["metadata"]["uid"] for pod in deployment.pods()}, 30, "old pods are left")
    assert {pod["spec"]["containers"][0]["image"] for pod in deployment.until_ready()} == {_OTHER_IMAGE}


def test_a_field_that_somebody_else_has_set_is_a_conflict(deployment: Deployment) -> None:
    deployment.apply()
    change = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "gemma", "namespace": deployment.namespace}}
    theirs = {**change, "spec": {"upgradeStrategy": {"type": "None"}}}
    plane = deployment.plane
    plane.kubectl(
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=anna",
        "-f-",
        "--validate=false",
        stdin=yaml.safe_dump(theirs),
    )
    refused = deployment.run("apply")
    assert refused.code == 1
    assert 'conflict with "anna"' in refused.err
    assert ".spec.upgradeStrategy.type" in refused.err
    deployment.do("apply", "--force")
    assert deployment.cluster()["spec"]["upgradeStrategy"]["type"] == "Recreate"


@pytest.mark.usefixtures("slice_nodes")
def test_two_people_apply_at_once(deployment: Deployment) -> None:
    deployment.prepare()
    both = [deployment.start("apply") for _ in range(2)]
    for process in both:
        output, _ = process.communicate(timeout=90)
        assert process.returncode == 0, output
    assert len(deployment.plane.api.items(deployment.path("rayclusters", group="ray.io/v1"))) == 1
    deployment.until_ready()
    assert "0 made, 0 changed" in deployment.do("apply")


@pytest.mark.usefixtures("slice_nodes")
def test_kubectl_applies_the_rendered_yaml_without_this_project(deployment: Deployment) -> None:
    rendered = deployment.directory / "rendered.yaml"
    rendered.write_text(deployment.render())
    output = deployment.plane.kubectl("apply", "--server-side", "-f", str(rendered))
    assert "raycluster.ray.io/gemma serverside-applied" in output
    deployment.until_ready()
    shown = deployment.run("diff")
    assert (shown.code, shown.out) == (0, "")


@pytest.mark.parametrize("system", ["gmp", "operator"])
def test_metrics_alerts_and_dashboards_come_along(deployment: Deployment, system: str) -> None:
    monitor, rules = {"gmp": ("PodMonitoring", "Rules"), "operator": ("PodMonitor", "PrometheusRule")}[system]
    deployment.change(metrics=system)
    output = deployment.apply()
    assert all(f"made  {title}" in output for title in (f"{monitor}/gemma", f"{rules}/gemma", "ConfigMap/gemma-dashboards"))
    live = deployment.plane.api.get(KINDS[rules].path(deployment.namespace, "gemma"))
    assert {rule["alert"] for group in live["spec"]["groups"] for rule in group["rules"]} == _ALERTS
    board = deployment.plane.api.get(deployment.path("configmaps", "gemma-dashboards"))
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    titles = {json.loads(text)["title"] for text in board["data"].values()}
    assert titles == {f"{name} ({deployment.namespace})" for name in ("Serving overview", "Engine", "Slice")}
    assert "0 made, 0 changed" in deployment.do("apply")
    output = deployment.do("down", "--timeout=60")
    assert all(f"{title} deleted" in output for title in (f"{monitor}/gemma", f"{rules}/gemma", "ConfigMap/gemma-dashboards"))


def test_a_cluster_without_the_operators_kinds_is_told_so(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "PodMonitor", dataclasses.replace(KINDS["PodMonitor"], api_version="monitoring.example.com/v1"))
    deployment.change(metrics="operator")
    refused = deployment.run("apply")
    assert refused.code == 1
    assert "PodMonitor/gemma: the cluster has no such kind of object" in refused.err


@pytest.mark.usefixtures("slice_nodes")
def test_a_disruption_budget_guards_the_hosts(deployment: Deployment) -> None:
    api = deployment.plane.api
    deployment.apply()
    deployment.until_ready()
    budget = deployment.path("poddisruptionbudgets", "gemma-hosts", "policy/v1")
    wait_for(lambda: api.get(budget).get("status", {}).get("currentHealthy") == 4, 20, "the budget does not count four hosts")
    host = deployment.hosts()[0]["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": host, "namespace": deployment.namespace}}
    answer = api.client.post(deployment.path("pods", f"{host}/eviction"), json=eviction)
    assert answer.status_code == 429
    assert "disruption budget" in answer.text


@pytest.mark.usefixtures("slice_nodes")
def test_a_ray_service_gets_the_same_pods(deployment: Deployment) -> None:
    deployment.change(kind="RayService")
    deployment.apply()
    deployment.until_ready()
    names = {pod["metadata"]["labels"]["ray.io/cluster"] for pod in deployment.pods()}
    assert len(names) == 1
    assert names.pop().startswith("gemma-")
    deployment.give_secrets()
    assert "4 of 4 hosts ready" in deployment.do("wait", "--timeout=60")
    assert "0 made, 0 changed" in deployment.do("apply")
    deployment.do("down")
    assert deployment.pods() == []


def test_two_slices_are_two_replicas_of_four_hosts(deployment: Deployment, slice_nodes: Cloud) -> None:
    slice_nodes.add_tpu_pool("slice-b")
    deployment.change(slices__count=2)
    deployment.apply()
    wait_for(lambda: len(deployment.hosts()) == 8, 30, "no eight hosts")
    by_slice: dict[str, set[str]] = {}
    for pod in deployment.hosts():
        by_slice.setdefault(pod["metadata"]["labels"]["ray.io/worker-group-replica-name"], set()).add(
            pod["metadata"]["labels"]["ray.io/replica-host-index"]
        )
    assert list(by_slice.values()) == [set("0123"), set("0123")]
    wait_for(lambda: all(pod["spec"].get("nodeName") for pod in deployment.hosts()), 30, "not all are placed")
    pools = {
        name: {
            pod["spec"]["nodeName"].rpartition("-")[0]
            for pod in deployment.hosts()
            if pod["metadata"]["labels"]["ray.io/worker-group-replica-name"] == name
        }
        for name in by_slice
    }
    assert sorted(map(sorted, pools.values())) == [["gke-slice-a"], ["gke-slice-b"]]

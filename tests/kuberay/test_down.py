"""`down` removes all that `apply` and `deploy` made, and nothing else."""

import re
from typing import Any

import pytest

from emulation.kubernetes.nodes.api import Api, Json, wait_for
from tests.kuberay.deployment import Deployment

pytestmark = pytest.mark.full
_EPHEMERAL = ("events", "leases", "endpoints", "endpointslices")


def everything(api: Api, namespace: str | None = None) -> set[tuple[str, str]]:
    """(path of the kind, name) of every object, of a namespace or of the cluster, but what comes and goes by itself."""
    names = set()
    groups = [f"/apis/{group['preferredVersion']['groupVersion']}" for group in api.get("/apis")["groups"]]
    for root in ("/api/v1", *groups):
        for kind in api.get(root)["resources"]:
            if "list" not in kind["verbs"] or "/" in kind["name"] or kind["name"] in _EPHEMERAL:
                continue
            if kind["namespaced"] != (namespace is not None):
                continue
            path = f"{root}/namespaces/{namespace}/{kind['name']}" if namespace else f"{root}/{kind['name']}"
            living = (live["metadata"] for live in api.items(path) if "deletionTimestamp" not in live["metadata"])
            names |= {(path, metadata["name"]) for metadata in living}
    return names


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cloud__mode": "autopilot"},
        {"kind": "RayService", "metrics": "operator", "users": {"admins": ["user:anna@example.com"]}},
    ],
    ids=["standard", "autopilot", "service"],
)
@pytest.mark.usefixtures("slice_nodes")
def test_nothing_is_left_of_an_own_namespace(deployment: Deployment, changes: dict[str, Any]) -> None:
    api = deployment.plane.api
    before = everything(api)
    deployment.change(**changes)
    deployment.apply()
    wait_for(deployment.pods, 30, "no pods")
    assert everything(api) > before
    for name in ("hub-token", "api-keys"):  # people made them, so they would keep the namespace
        api.delete(deployment.path("secrets", name))
    planned = deployment.do("down", "--dry-run")
    assert f"would delete {changes.get('kind', 'RayCluster')}/gemma" in planned
    first, *_, binding, policy = re.findall(r"would delete (\w+)/", planned)
    assert first in ("ConfigMap", "Secret")
    assert (binding, policy) == ("ValidatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy")  # while pods could be made
    output = deployment.do("down", "--timeout=60")
    assert f"Namespace/{deployment.namespace} deleted" in output
    wait_for(lambda: api.find(f"/api/v1/namespaces/{deployment.namespace}") is None, 60, "the namespace stays")
    assert everything(api) == before


@pytest.mark.usefixtures("slice_nodes")
def test_other_peoples_things_stay(deployment: Deployment) -> None:
    api, ns = deployment.plane.api, deployment.namespace
    deployment.make_namespace()
    wait_for(lambda: api.find(deployment.path("configmaps", "kube-root-ca.crt")), 20, "the namespace is not ready")
    wait_for(lambda: api.find(deployment.path("serviceaccounts", "default")), 20, "the namespace is not ready")
    labels = {"app.kubernetes.io/instance": "another", "app.kubernetes.io/managed-by": "ray-tpu-serve"}
    theirs: dict[str, Json] = {
        "configmaps": {"metadata": {"name": "theirs"}},
        "serviceaccounts": {"metadata": {"name": "x", "labels": labels}},
    }
    for plural, body in theirs.items():
        api.create(deployment.path(plural), body)
    deployment.give_secrets()
    before = everything(api, ns)
    deployment.apply()
    deployment.until_ready()
    deployment.do("down", "--timeout=60")
    assert everything(api, ns) == before
    api.delete(deployment.path("secrets"))
    for plural, body in theirs.items():
        api.delete(deployment.path(plural, body["metadata"]["name"]))
    deployment.do("down")
    assert "deletionTimestamp" not in api.get(f"/api/v1/namespaces/{ns}")["metadata"]  # it was there before


def test_an_own_namespace_stays_while_others_are_in_it(deployment: Deployment) -> None:
    deployment.apply()
    deployment.give_secrets()
    output = deployment.do("down", "--timeout=60")
    assert f"Namespace/{deployment.namespace} stays: it has Secret/" in output


def test_a_second_down_and_one_without_anything_are_no_errors(deployment: Deployment) -> None:
    assert deployment.run("down").code == 0
    deployment.apply()
    deployment.do("down", "--timeout=60")
    assert deployment.run("down").code == 0

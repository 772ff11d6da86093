"""Each group of users may do what its commands need, and nothing else."""

from pathlib import Path

import pytest

from emulation.kubernetes.nodes.api import Api, wait_for
from tests.kuberay.deployment import Deployment
from tests.kuberay.namespaces import made_namespace
from tests.kuberay.plane import ControlPlane

pytestmark = pytest.mark.full
_ANNA = "anna@example.com"
_BERT = "bert@example.com"
_USERS = {
    "viewers": ["user:vera@example.com"],
    "deployers": ["user:dora@example.com"],
    "admins": [f"user:{_ANNA}", "group:ml-team@example.com"],
}


@pytest.fixture
def given(deployment: Deployment) -> Deployment:
    """What an administrator gives: everything but Ray, and a role for Anna."""
    deployment.change(users=_USERS)
    deployment.apply()
    deployment.give_secrets()
    deployment.plane.api.delete(deployment.cluster_path)
    wait_for(lambda: deployment.plane.api.find(deployment.cluster_path) is None, 20, "the RayCluster stays")
    return deployment


@pytest.fixture
def anna(given: Deployment) -> Path:
    return given.plane.kubeconfig_for(_ANNA)


@pytest.mark.usefixtures("slice_nodes")
def test_every_command_works_for_an_admin(given: Deployment, anna: Path) -> None:
    given.kubeconfig = anna
    assert "+kind: RayCluster" in given.do("diff")
    assert "made  RayCluster/gemma" in given.apply()
    assert "head ready, 4 of 4 hosts ready after" in given.do("wait", "--timeout=60")
    assert "4 of 4 hosts ready" in given.do("status")
    assert "emulated: ray-head" in given.do("logs", "--tail=5")
    assert "emulated: ray-worker" in given.do("logs", "--host=2")
    doctor = given.run("doctor")
    assert "you may run every command" in doctor.out, doctor.text
    assert "no pods are left" in given.do("park", "--timeout=60")
    given.do("unpark", "--timeout=60")
    output = given.do("down", "--timeout=60")
    assert "RayCluster/gemma deleted" in output
    assert "Role/gemma-admins stays: you may not delete it" in output
    assert f"Namespace/{given.namespace} stays: you may not" in output or "Namespace" not in output
    assert given.pods() == []


def test_a_group_has_the_same_role(given: Deployment) -> None:
    given.kubeconfig = given.plane.kubeconfig_for("carla@example.com", ["ml-team@example.com"])
    assert "made  RayCluster/gemma" in given.apply()


_MATRIX: dict[str, tuple[str, set[str]]] = {
    # what: (how to ask, who may)
    "see pods": ("get pods", {"vera", "dora", "anna"}),
    "read logs": ("get pods/log", {"vera", "dora", "anna"}),
    "forward ports": ("create pods/portforward", {"dora", "anna"}),
    "read Ray's token": ("get secrets/gemma", {"dora", "anna"}),
    "read another secret": ("get secrets/hub-token", set()),
    "list secrets": ("list secrets", set()),
    "note a deploy": ("patch configmaps/gemma-serve-config", {"dora", "anna"}),
    "change a RayCluster": ("patch rayclusters.ray.io", {"anna"}),
    "make a RayCluster": ("create rayclusters.ray.io", {"anna"}),
    "change a RayService": ("patch rayservices.ray.io", {"anna"}),
    "make a job": ("create jobs.batch", {"anna"}),
    "make a pod": ("create pods", set()),
    "run commands in a pod": ("create pods/exec", set()),
    "add a container to a pod": ("patch pods/ephemeralcontainers", set()),
    "change rights": ("patch rolebindings.rbac.authorization.k8s.io", set()),
    "make an account's token": ("create serviceaccounts/token", set()),
}


def test_each_group_may_do_what_its_commands_need_and_no_more(given: Deployment) -> None:
    may: dict[str, set[str]] = {what: set() for what in _MATRIX}
    for user in ("vera", "dora", "anna"):
        api = Api(given.plane.kubeconfig_for(f"{user}@example.com"))
        for what, (asked, _) in _MATRIX.items():
            if _may(api, given.namespace, asked):
                may[what].add(user)
    assert may == {what: who for what, (_, who) in _MATRIX.items()}


def _may(api: Api, namespace: str, asked: str) -> bool:
    verb, _, rest = asked.partition(" ")
    resource, _, last = rest.partition("/")
    resource, _, group = resource.partition(".")
    attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": resource}
    attributes |= {"subresource" if last in ("log", "portforward", "exec", "token", "ephemeralcontainers") else "name": last}
    review = {"spec": {"resourceAttributes": attributes}}
    answer = api.client.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", json=review)
    return bool(answer.json()["status"]["allowed"])


@pytest.mark.usefixtures("slice_nodes")
def test_a_deployer_sees_and_reaches_the_cluster_and_changes_none_of_its_pods(deployment: Deployment) -> None:
    deployment.change(users=_USERS)
    deployment.apply()
    deployment.until_ready()
    deployment.kubeconfig = deployment.plane.kubeconfig_for("dora@example.com")
    assert "4 of 4 hosts ready" in deployment.do("status")
    assert "emulated: ray-worker" in deployment.do("logs", "--host=2")
    deployment.change(users=_USERS, head={"cpu": "8"})
    refused = deployment.run("apply", "--yes")
    assert refused.code == 1
    assert "RayCluster/gemma differs from the spec, and you may not change it" in refused.err
    assert deployment.run("park").code == 1


def test_a_user_sees_no_other_secret_and_changes_no_rights(given: Deployment, anna: Path, control_plane: ControlPlane) -> None:
    api = Api(anna)
    given.apply()
    own = given.path("secrets", "gemma")
    wait_for(lambda: given.plane.api.find(own), 20, "KubeRay made no token")
    assert api.find(own)
    forbidden = [
        ("GET", given.path("secrets", "hub-token")),
        ("GET", given.path("secrets")),
        ("GET", "/api/v1/namespaces/default/pods"),
        ("GET", "/api/v1/nodes"),
        ("GET", given.path("configmaps")),
        ("DELETE", given.path("roles", "gemma-admins", "rbac.authorization.k8s.io/v1")),
        ("DELETE", given.path("serviceaccounts", "gemma-serve")),
        ("DELETE", given.path("networkpolicies", "gemma", "networking.k8s.io/v1")),
        ("DELETE", f"/api/v1/namespaces/{given.namespace}"),
        ("DELETE", given.path("secrets", "gemma")),
        ("POST", given.path("pods", "gemma-head/exec")),
    ]
    with made_namespace(control_plane) as other:
        forbidden.append(("GET", f"/apis/ray.io/v1/namespaces/{other}/rayclusters"))
        assert [(verb, path) for verb, path in forbidden if api.client.request(verb, path).status_code != 403] == []


def test_a_user_is_told_what_only_an_administrator_may_change(given: Deployment, anna: Path) -> None:
    given.kubeconfig = anna
    given.change(users={**_USERS, "admins": [*_USERS["admins"], f"user:{_BERT}"]})
    refused = given.run("apply")
    assert refused.code == 1
    assert "RoleBinding/gemma-admins differs from the spec, and you may not change it" in refused.err


def test_a_stranger_gets_one_plain_sentence(given: Deployment) -> None:
    given.kubeconfig = given.plane.kubeconfig_for("stranger@example.com")
    for command in ("apply", "status", "wait", "park", "logs", "deploy", "down"):
        refused = given.run(command)
        assert refused.code == 1, (command, refused.text)
        assert "stranger@example.com" in refused.err
        assert "Traceback" not in refused.text
    doctor = given.run("doctor")
    assert doctor.code == 1
    assert "stranger@example.com" in doctor.text or "you may not" in doctor.text

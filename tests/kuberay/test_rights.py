"""The role for users is enough for every command, and for nothing else."""

from pathlib import Path

import pytest

from runtime_env.control_plane.played.api import Api, wait_for
from tests.kuberay.deployment import Deployment
from tests.kuberay.namespaces import made_namespace
from tests.kuberay.plane import ControlPlane

pytestmark = pytest.mark.full
_ANNA = "anna@example.com"
_BERT = "bert@example.com"


@pytest.fixture
def given(deployment: Deployment) -> Deployment:
    """What an administrator gives: everything but Ray, and a role for Anna."""
    deployment.change(users=[f"user:{_ANNA}", "group:ml-team@example.com"])
    deployment.do("apply")
    deployment.give_secrets()
    deployment.plane.api.delete(deployment.cluster_path)
    wait_for(lambda: deployment.plane.api.find(deployment.cluster_path) is None, 20, "the RayCluster stays")
    return deployment


@pytest.fixture
def anna(given: Deployment) -> Path:
    return given.plane.kubeconfig_for(_ANNA)


@pytest.mark.usefixtures("slice_nodes")
def test_every_command_works_for_a_user(given: Deployment, anna: Path) -> None:
    given.kubeconfig = anna
    assert "+kind: RayCluster" in given.do("diff")
    assert "made  RayCluster/gemma" in given.do("apply")
    assert "head ready, 4 of 4 hosts ready after" in given.do("wait", "--timeout=60")
    assert "4 of 4 hosts ready" in given.do("status")
    assert "played: ray-head" in given.do("logs", "--tail=5")
    assert "played: ray-worker" in given.do("logs", "--host=2")
    found = given.run("doctor")
    assert "you may run every command" in found.out, found.text
    assert "no pods are left" in given.do("park", "--timeout=60")
    given.do("unpark", "--timeout=60")
    said = given.do("down", "--timeout=60")
    assert "RayCluster/gemma deleted" in said
    assert "Role/gemma-users stays: you may not delete it" in said
    assert f"Namespace/{given.namespace} stays: you may not" in said or "Namespace" not in said
    assert given.pods() == []


def test_a_group_has_the_same_role(given: Deployment) -> None:
    given.kubeconfig = given.plane.kubeconfig_for("carla@example.com", ["ml-team@example.com"])
    assert "made  RayCluster/gemma" in given.do("apply")


def test_a_user_sees_no_other_secret_and_changes_no_rights(given: Deployment, anna: Path, control_plane: ControlPlane) -> None:
    api = Api(anna)
    given.do("apply")
    own = given.path("secrets", "gemma")
    wait_for(lambda: given.plane.api.find(own), 20, "KubeRay made no token")
    assert api.find(own)
    forbidden = [
        ("GET", given.path("secrets", "hub-token")),
        ("GET", given.path("secrets")),
        ("GET", "/api/v1/namespaces/default/pods"),
        ("GET", "/api/v1/nodes"),
        ("GET", given.path("configmaps")),
        ("DELETE", given.path("roles", "gemma-users", "rbac.authorization.k8s.io/v1")),
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
    given.change(users=[f"user:{_ANNA}", f"user:{_BERT}"])
    refused = given.run("apply")
    assert refused.code == 1
    assert "RoleBinding/gemma-users is not as the spec wants it, and you may not change it" in refused.err


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

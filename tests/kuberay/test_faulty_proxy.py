"""The faulty proxy, as a client of the API server meets it."""

import subprocess

import httpx
import pytest

from emulation.kubernetes.nodes.api import Api
from tests.kuberay.faulty_proxy import FaultyProxy
from tests.kuberay.plane import ControlPlane

pytestmark = pytest.mark.full
_CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
def client(faulty_proxy: FaultyProxy) -> Api:
    return Api(faulty_proxy.kubeconfig)


@pytest.mark.parametrize("status", [409, 429, 500])
def test_errors_of_kubernetes(client: Api, faulty_proxy: FaultyProxy, status: int) -> None:
    faulty_proxy.answer(status, times=2, verb="GET", path="/api/v1/*", retry_after=1)
    for _ in range(2):
        response = client.client.get(_CONFIG_MAPS)
        assert (response.status_code, response.headers["retry-after"]) == (status, "1")
        assert response.json()["code"] == status
    assert client.items(_CONFIG_MAPS) is not None
    assert client.items("/apis/apps/v1/deployments") == []
    assert faulty_proxy.count("GET", "/api/v1/*") == 3


def test_a_cut_request_did_not_happen_and_a_lost_answer_did(
    client: Api, faulty_proxy: FaultyProxy, control_plane: ControlPlane
) -> None:
    names = []
    for name, done in (("cut", False), ("lost", True)):
        faulty_proxy.cut(verb="POST", after_it_is_done=done)
        with pytest.raises(httpx.HTTPError):
            client.create(_CONFIG_MAPS, {"metadata": {"name": name}})
        names += [name] if control_plane.api.find(f"{_CONFIG_MAPS}/{name}") else []
        control_plane.api.delete(f"{_CONFIG_MAPS}/{name}")
    assert names == ["lost"]


def test_dropped_watches(client: Api, faulty_proxy: FaultyProxy, control_plane: ControlPlane) -> None:
    version = client.get(_CONFIG_MAPS)["metadata"]["resourceVersion"]
    for name in ("one", "two"):
        control_plane.api.create(_CONFIG_MAPS, {"metadata": {"name": name}})
        control_plane.api.delete(f"{_CONFIG_MAPS}/{name}")
    faulty_proxy.drop_watches()
    seen: list[str] = []
    with pytest.raises(httpx.HTTPError):
        seen.extend(kind for kind, _ in client.watch(_CONFIG_MAPS, version, seconds=5))
    whole = [kind for kind, _ in client.watch(_CONFIG_MAPS, version, seconds=1)]
    assert len(seen) <= len(whole) == 4
    assert faulty_proxy.count("WATCH") == 2


def test_it_says_what_it_is_told_and_kubectl_works_through_it(faulty_proxy: FaultyProxy, control_plane: ControlPlane) -> None:
    version = {"major": "1", "minor": "34", "gitVersion": "v1.34.1-gke.1000000"}
    faulty_proxy.say(version, path="/version")
    assert "v1.34.1-gke.1000000" in control_plane.kubectl("version", kubeconfig=faulty_proxy.kubeconfig)
    faulty_proxy.heal()
    assert "v1.35.4" in control_plane.kubectl("version", kubeconfig=faulty_proxy.kubeconfig)
    faulty_proxy.answer(500, path="/api/v1/namespaces/kube-public")
    with pytest.raises(subprocess.CalledProcessError):
        control_plane.kubectl("get", "namespace", "kube-public", kubeconfig=faulty_proxy.kubeconfig)

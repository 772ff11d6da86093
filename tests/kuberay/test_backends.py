"""Both clients of RayClusters do the same: the official one, and KubeRay's own, from the copy in the package codeflare-sdk."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from emulation.kubernetes.nodes.api import wait_for
from emulation.kubernetes.nodes.cloud import Cloud
from tests.kuberay.deployment import Deployment
from tests.kuberay.faulty_proxy import FaultyProxy

pytestmark = pytest.mark.full
_THEIRS = "--backend=python_client"


@pytest.fixture
def python_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """KubeRay's client under its own name. codeflare-sdk itself is not imported: it would need much that is not installed."""
    package_spec = importlib.util.find_spec("codeflare_sdk")
    assert package_spec
    assert package_spec.submodule_search_locations
    (folder,) = package_spec.submodule_search_locations
    package = ModuleType("codeflare_sdk")
    package.__path__ = [folder]
    monkeypatch.setitem(sys.modules, "codeflare_sdk", package)
    monkeypatch.syspath_prepend(str(Path(folder) / "vendored"))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in ("python_client", "codeflare_sdk")]:
        del sys.modules[name]


@pytest.mark.usefixtures("python_client", "slice_nodes")
def test_kubernetes_own_and_kuberays_client_make_the_same(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")  # what --kubeconfig says counts
    deployment.apply(_THEIRS)
    first = {pod["metadata"]["uid"] for pod in deployment.until_ready()}
    assert "0 made, 0 changed" in deployment.do("apply")
    assert deployment.run("diff", _THEIRS).out == ""
    deployment.give_secrets()
    assert "no pods are left" in deployment.do("park", _THEIRS, "--timeout=60")
    deployment.do("unpark", _THEIRS, "--timeout=60")
    assert not first & {pod["metadata"]["uid"] for pod in deployment.pods()}
    output = deployment.do("down", _THEIRS, "--timeout=60")
    assert "RayCluster/gemma deleted" in output
    wait_for(lambda: deployment.plane.api.find(deployment.cluster_path) is None, 30, "the RayCluster stays")


@pytest.mark.usefixtures("python_client")
def test_a_change_through_kuberays_client(deployment: Deployment, cloud: Cloud) -> None:
    cloud.add_cpu_pool()
    deployment.apply(_THEIRS)
    deployment.change(head={"cpu": "6"})
    assert "changed  RayCluster/gemma" in deployment.do("apply", _THEIRS, "--yes")
    limits = deployment.cluster()["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["cpu"] == "6"
    assert len(deployment.cluster()["spec"]["workerGroupSpecs"]) == 1


@pytest.mark.usefixtures("python_client")
def test_errors_that_kuberays_client_swallows_are_told(deployment: Deployment, faulty_proxy: FaultyProxy) -> None:
    deployment.kubeconfig = deployment.plane.kubeconfig_for("stranger@example.com")
    refused = deployment.run("park", _THEIRS)
    assert refused.code == 1
    assert "python_client failed" in refused.err
    deployment.kubeconfig = faulty_proxy.kubeconfig
    deployment.prepare()
    faulty_proxy.answer(400, times=1, verb="POST", path="*/rayclusters")
    failed = deployment.run("apply", _THEIRS)
    assert (failed.code, "python_client failed" in failed.err) == (1, True)
    assert "made  RayCluster/gemma" in deployment.apply(_THEIRS)


@pytest.mark.usefixtures("python_client", "slice_nodes")
def test_the_documents_program_deploys(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "kuberay_client.md").read_text()
    program = page.partition("```python\n")[2].partition("```")[0]
    deployment.prepare()
    # what KUBECONFIG says, read once when the library is imported
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(deployment.kubeconfig))
    (deployment.directory / "cluster.yaml").write_text(deployment.spec.read_text())
    monkeypatch.chdir(deployment.directory)
    exec(compile(program, "docs/kuberay_client.md", "exec"), {})  # noqa: S102 - this project's own page
    assert len(deployment.until_ready()) == 5


def test_it_is_not_installed(deployment: Deployment) -> None:
    missing = deployment.run("apply", _THEIRS)
    assert missing.code == 2
    assert "github.com/ray-project/kuberay" in missing.err

"""The parts of a cluster as fixtures: one real control plane for the session, everything else for one test.

docs/control_plane.md lists what is real and what is emulated.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulation.kubernetes import build
from emulation.kubernetes.nodes.cloud import Cloud
from emulation.kubernetes.nodes.kubelet import Kubelet, running_kubelet
from emulation.kubernetes.nodes.sandbox import SandboxUnavailableError, sandboxes
from emulation.kubernetes.nodes.webhook import TpuWebhook, running_tpu_webhook
from tests.kuberay.deployment import Deployment, made_deployment
from tests.kuberay.faulty_proxy import FaultyProxy, running_faulty_proxy
from tests.kuberay.plane import ROOT, ControlPlane, running_control_plane

_background_builds: list[subprocess.Popen[bytes]] = []


def skip_or_fail(reason: str) -> None:
    """REQUIRE_CONTROL_PLANE=1 makes what is missing an error."""
    if os.environ.get("REQUIRE_CONTROL_PLANE") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Unit tests first, while the control plane is built; then those that run Ray in pods, before the main run's drills."""
    ours, rays = ROOT / "tests" / "kuberay", ("test_flow.py", "test_walkthrough.py")
    items.sort(key=lambda item: (item.path.is_relative_to(ours), item.path.name not in rays))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the control plane beside other tests, so that those that need it wait less."""
    needed = any("control_plane" in getattr(item, "fixturenames", ()) for item in session.items)
    if needed and shutil.which("go") and not build.programs().is_built and not session.config.option.collectonly:
        command = ["nice", "-n", "19", sys.executable, "-m", "emulation.kubernetes", "build"]
        nothing = subprocess.DEVNULL
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdin=nothing, stdout=nothing, stderr=nothing)
        _background_builds.append(process)


def pytest_sessionfinish() -> None:
    for process in _background_builds:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The real one. Built first, if it is not: minutes."""
    if shutil.which("go") is None and not build.programs().is_built:
        skip_or_fail("no Go on PATH to build the control plane with")
    with running_control_plane(tmp_path_factory.mktemp("state")) as plane:
        yield plane


@pytest.fixture
def cloud(control_plane: ControlPlane) -> Iterator[Cloud]:
    """A cluster without nodes, until the test adds some."""
    cloud = Cloud(control_plane.api)
    yield cloud
    cloud.remove_all()


@pytest.fixture
def kubelet(control_plane: ControlPlane, cloud: Cloud, tmp_path: Path) -> Iterator[Kubelet]:  # noqa: ARG001 - nodes outlive it
    """Kubelets on all nodes; they run nothing in their pods."""
    with running_kubelet(control_plane.layout, control_plane.api, _pods(tmp_path)) as kubelet:
        yield kubelet


@pytest.fixture
def real_kubelet(control_plane: ControlPlane, cloud: Cloud, tmp_path: Path) -> Iterator[Kubelet]:  # noqa: ARG001
    """Kubelets on all nodes that run the pods' commands, each pod in namespaces of its own."""
    directory = _pods(tmp_path)
    try:
        with (
            sandboxes(control_plane.api, control_plane.layout.egress_socket, directory) as runtime,
            running_kubelet(control_plane.layout, control_plane.api, directory, runtime) as kubelet,
        ):
            yield kubelet
    except SandboxUnavailableError as error:
        pytest.skip(str(error))  # the kernel's own policy, which nobody can install


@pytest.fixture
def real_deployment(control_plane: ControlPlane, real_kubelet: Kubelet, tmp_path: Path) -> Iterator[Deployment]:  # noqa: ARG001
    """Like `deployment`, with the kubelets that run the pods' commands."""
    directory = tmp_path / "deployment"
    directory.mkdir()
    with made_deployment(control_plane, directory, f"test-{uuid.uuid4().hex[:8]}") as deployment:
        yield deployment


@pytest.fixture
def deployment(control_plane: ControlPlane, kubelet: Kubelet, tmp_path: Path) -> Iterator[Deployment]:  # noqa: ARG001
    """The example's spec in a namespace that `apply` makes, with kubelets that run nothing; no nodes, no webhook yet."""
    directory = tmp_path / "deployment"
    directory.mkdir()
    with made_deployment(control_plane, directory, f"test-{uuid.uuid4().hex[:8]}") as deployment:
        yield deployment


@pytest.fixture
def slice_nodes(cloud: Cloud, tpu_webhook: TpuWebhook) -> Cloud:  # noqa: ARG001
    """What the example needs: a node for the head, one whole slice, and GKE's webhook."""
    cloud.add_cpu_pool()
    cloud.add_tpu_pool("slice-a")
    return cloud


@pytest.fixture
def tpu_webhook(control_plane: ControlPlane) -> Iterator[TpuWebhook]:
    """GKE's webhook; without this fixture it is absent."""
    with running_tpu_webhook(control_plane.layout, control_plane.api) as webhook:
        yield webhook


@pytest.fixture
def faulty_proxy(control_plane: ControlPlane, tmp_path: Path) -> Iterator[FaultyProxy]:
    """A proxy in front of the API server, as its administrator."""
    with running_faulty_proxy(control_plane, tmp_path) as proxy:
        yield proxy


def _pods(tmp_path: Path) -> Path:
    directory = tmp_path / "pods"
    directory.mkdir()
    return directory

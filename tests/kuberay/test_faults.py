"""Commands through a bad line to the API server: busy, failing, cut off before and after the deed; and a lock that holds."""

import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

from apps.common.errors import OperationError
from emulation.kubernetes.nodes.kubelet import Kubelet
from kuberay.api import connect
from kuberay.objects import Manifest
from kuberay.rollout.lock import locked
from tests.kuberay.deployment import Deployment
from tests.kuberay.faulty_proxy import FaultyProxy
from tests.kuberay.test_wait import following

pytestmark = pytest.mark.full


@pytest.fixture
def through(deployment: Deployment, faulty_proxy: FaultyProxy) -> Deployment:
    """The deployment, its commands going through the proxy."""
    deployment.kubeconfig = faulty_proxy.kubeconfig
    return deployment


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(through: Deployment, faulty_proxy: FaultyProxy, status: int) -> None:
    faulty_proxy.answer(status, times=3, verb="PATCH", retry_after=1 if status == 429 else None)
    faulty_proxy.answer(status, times=2, verb="GET")
    assert "made  RayCluster/gemma" in through.apply()
    assert "0 made, 0 changed" in through.do("apply")


def test_retry_after_is_kept(through: Deployment, faulty_proxy: FaultyProxy) -> None:
    through.apply()
    faulty_proxy.answer(429, times=1, verb="GET", path="*/rayclusters/*", retry_after=3)
    started = time.monotonic()
    through.do("diff")
    assert time.monotonic() - started >= 3


def test_a_server_that_stays_down_is_an_error_in_words(through: Deployment, faulty_proxy: FaultyProxy) -> None:
    through.apply()
    faulty_proxy.answer(403, times=10**6, path="*/rayclusters/*")
    refused = through.run("apply")
    assert refused.code == 1
    assert "a fault of the test's proxy" in refused.err
    assert "Traceback" not in refused.text


def test_cut_connections_before_and_after_the_deed(through: Deployment, faulty_proxy: FaultyProxy) -> None:
    faulty_proxy.cut(times=2, verb="PATCH")
    faulty_proxy.cut(times=1, verb="PATCH", after_it_is_done=True)
    faulty_proxy.cut(times=1, verb="GET", after_it_is_done=True)
    through.apply()
    assert "0 made, 0 changed" in through.do("apply")
    faulty_proxy.cut(times=1, verb="DELETE", path="*/rayclusters/*", after_it_is_done=True)
    through.do("down")
    assert through.plane.api.find(through.cluster_path) is None


def test_a_conflict_of_the_moment_does_not_stop_an_apply(through: Deployment, faulty_proxy: FaultyProxy) -> None:
    """The answer of an API server when somebody else writes the same object at the same time."""
    faulty_proxy.answer(409, times=1, verb="PATCH", path="*/roles/gemma-viewers")
    assert "made  Role/gemma-viewers" in through.do("apply", "--part=platform")
    assert faulty_proxy.count("PATCH", "*/roles/gemma-viewers") == 3  # the conflict, the trial after it, and the deed


@pytest.mark.usefixtures("slice_nodes")
def test_wait_goes_on_through_all_of_it(through: Deployment, faulty_proxy: FaultyProxy, kubelet: Kubelet) -> None:
    kubelet.orders.held.add("*-stage-weights-*")
    through.apply()
    with following(through) as wait:
        wait.until_printed("weights")
        for status in (429, 500, 503):
            faulty_proxy.answer(status, times=2, verb="GET")
        faulty_proxy.cut(times=2, verb="GET")
        kubelet.orders.held.clear()
        assert "4 of 4 hosts ready after" in wait.until_done()


def record(deployment: Deployment) -> Manifest:
    metadata = {"name": "gemma-serve-config", "namespace": deployment.namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {}}


def test_the_lock_of_someone_who_is_gone_is_void(deployment: Deployment) -> None:
    deployment.make_namespace()
    api, manifest = connect(str(deployment.kubeconfig)), record(deployment)
    path = deployment.path("configmaps", "gemma-serve-config")
    with ExitStack() as second:
        with locked(api, manifest, timeout_s=5):
            with pytest.raises(OperationError, match="somebody else has been deploying"), locked(api, manifest, timeout_s=1):
                pytest.fail("two are inside")
            past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat(timespec="seconds")
            annotations = {"ray-tpu-serve/deploying-until": past}
            deployment.plane.api.merge(path, {"metadata": {"annotations": annotations}})
            second.enter_context(locked(api, manifest, timeout_s=1))
        assert "ray-tpu-serve/deploying" in deployment.plane.api.get(path)["metadata"]["annotations"]
    assert "annotations" not in deployment.plane.api.get(path)["metadata"]


def test_an_api_server_that_is_away_for_good(
    through: Deployment, faulty_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kuberay.api._RETRIES", 2)  # half a minute is too long for a test
    faulty_proxy.cut(times=10**6)
    for command in ("status", "apply", "wait", "doctor"):
        failed = through.run(command)
        assert failed.code == 1
        assert "does not answer" in failed.text
        assert "Traceback" not in failed.text

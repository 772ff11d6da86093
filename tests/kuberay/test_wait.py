"""`wait` reports which pod waits for what, each cause provoked; it sees lost hosts, a restarted API server, and parking."""

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emulation.kubernetes.nodes.api import wait_for
from emulation.kubernetes.nodes.cloud import Cloud
from emulation.kubernetes.nodes.kubelet import Kubelet
from emulation.kubernetes.nodes.pod_status import now
from emulation.kubernetes.nodes.webhook import TpuWebhook
from tests.kuberay.deployment import Deployment
from tests.kuberay.plane import ControlPlane

pytestmark = pytest.mark.full
_PRINTED_S = 30


class Following:
    """A `wait` in a process of its own, and what it has printed so far."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self.process, self._log = process, log

    @property
    def text(self) -> str:
        return self._log.read_text()

    def until_printed(self, *words: str) -> None:
        wait_for(lambda: all(word in self.text for word in words), _PRINTED_S, lambda: f"{words} not in:\n{self.text}")

    def until_done(self, code: int = 0) -> str:
        assert self.process.wait(60) == code, self.text
        return self.text


@contextmanager
def following(deployment: Deployment, command: str = "wait") -> Iterator[Following]:
    log = deployment.directory / "wait.log"
    with log.open("w") as output:
        process = deployment.start(command, "--timeout=120", output=output)
    try:
        yield Following(process, log)
    finally:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("tpu_webhook")
def test_hosts_wait_for_nodes_and_get_them(deployment: Deployment, cloud: Cloud) -> None:
    cloud.add_cpu_pool()
    deployment.apply()
    deployment.give_secrets()
    with following(deployment) as wait:
        wait.until_printed(
            "head ready, 0 of 4 hosts ready", "host 0 of tpu-", "waits for a node", "node affinity", "gke.py status"
        )
        cloud.add_tpu_pool("slice-a")
        assert "head ready, 4 of 4 hosts ready after" in wait.until_done()


@pytest.mark.usefixtures("slice_nodes")
def test_a_quota_that_is_too_small(deployment: Deployment) -> None:
    quota = {"metadata": {"name": "tpus"}, "spec": {"hard": {"requests.google.com/tpu": "8"}}}
    api = deployment.plane.api
    deployment.make_namespace()
    api.create(deployment.path("resourcequotas"), quota)
    wait_for(
        lambda: "hard" in api.get(deployment.path("resourcequotas", "tpus")).get("status", {}), 20, "the quota is not counted"
    )
    deployment.apply()
    with following(deployment) as wait:
        wait.until_printed(
            "quota does not let it make a pod", "exceeded quota: tpus", "raise the ResourceQuota", "pods are made"
        )


@pytest.mark.usefixtures("tpu_webhook")
def test_google_clouds_quota(deployment: Deployment, cloud: Cloud) -> None:
    """GKE's autoscaler reports it in an event like this."""
    cloud.add_cpu_pool()
    deployment.apply()
    wait_for(lambda: len(deployment.hosts()) == 4, 20, "no four hosts")
    meta = deployment.hosts()[0]["metadata"]
    event = {
        "metadata": {"generateName": "x", "namespace": deployment.namespace},
        "involvedObject": {"kind": "Pod", "name": meta["name"], "namespace": deployment.namespace, "uid": meta["uid"]},
        "type": "Warning",
        "reason": "FailedScaleUp",
        "message": "Node scale up in zones us-east5-b associated with this pod failed: GCE quota exceeded.",
        "lastTimestamp": now(),
    }
    deployment.plane.api.create(deployment.path("events"), event)
    with following(deployment) as wait:
        wait.until_printed("Google Cloud's quota is used up", "GCE quota exceeded", "use a reservation")


@pytest.mark.usefixtures("slice_nodes")
def test_an_image_that_is_not_there(deployment: Deployment, kubelet: Kubelet) -> None:
    kubelet.orders.unpullable.add("*server:0.1.0")
    deployment.apply()
    deployment.give_secrets()
    with following(deployment) as wait:
        wait.until_printed("head: its image cannot be pulled", "server:0.1.0: not found", "weights: its image cannot be pulled")
        kubelet.orders.unpullable.clear()
        wait.until_done()


@pytest.mark.usefixtures("slice_nodes")
def test_a_claim_template_that_is_not_there(deployment: Deployment) -> None:
    template = deployment.path("resourceclaimtemplates", "gemma-netdev", "resource.k8s.io/v1")
    deployment.apply()
    deployment.until_ready()
    deployment.do("park")
    deployment.plane.api.delete(template)
    with following(deployment, command="unpark") as wait:
        wait.until_printed("waits for its network claim", "gemma-netdev", "see doctor")


@pytest.mark.usefixtures("tpu_webhook")
def test_network_cards_that_no_node_has(deployment: Deployment, cloud: Cloud) -> None:
    cloud.add_cpu_pool()
    cloud.add_tpu_pool("slice-a", dranet=False)
    deployment.apply()
    with following(deployment) as wait:
        wait.until_printed("waits for its network claim", "4 cannot allocate all claims")


@pytest.mark.usefixtures("slice_nodes")
def test_a_secret_that_is_made_by_hand(deployment: Deployment) -> None:
    """Before it is there no pod is asked for, so no node is rented; what is lost later is named."""
    deployment.change(api_keys="our-keys")
    early = deployment.run("apply")
    assert early.code == 1
    for name, key in (("hub-token", "token"), ("our-keys", "keys.json")):
        command = f"kubectl -n {deployment.namespace} create secret generic {name} --from-file={key}=FILE"
        assert command in early.err
    assert (deployment.pods(), deployment.plane.api.find(deployment.cluster_path)) == ([], None)
    deployment.prepare()
    secret = {"metadata": {"name": "our-keys"}}
    deployment.plane.api.create(deployment.path("secrets"), secret)
    deployment.do("apply")
    deployment.do("wait", "--timeout=60")
    deployment.plane.api.delete(deployment.path("secrets", "our-keys"))
    deployment.plane.api.delete(deployment.path("pods"), gracePeriodSeconds=0)
    with following(deployment) as wait:
        wait.until_printed("a volume cannot be mounted", 'secret "our-keys" not found')
        deployment.plane.api.create(deployment.path("secrets"), secret)
        wait.until_done()


@pytest.mark.usefixtures("slice_nodes")
def test_a_webhook_that_fails_lets_no_host_be_made(deployment: Deployment, tpu_webhook: TpuWebhook) -> None:
    deployment.prepare()
    tpu_webhook.break_down()
    refused = deployment.run("apply")
    assert refused.code == 1
    assert "webhook" in refused.err
    tpu_webhook.mend()
    deployment.apply()
    deployment.until_ready()


@pytest.mark.usefixtures("slice_nodes")
def test_a_webhook_that_fails_only_for_pods(deployment: Deployment, tpu_webhook: TpuWebhook) -> None:
    tpu_webhook.break_down("/mutate")
    deployment.apply()
    with following(deployment) as wait:
        wait.until_printed(
            "a webhook refuses its pods, or does not answer", "mutate.kuberay-tpu-webhook.google.com", "see doctor"
        )


@pytest.mark.usefixtures("slice_nodes")
def test_a_spec_that_kuberay_refuses_ends_the_wait_at_once(deployment: Deployment) -> None:
    deployment.apply()
    deployment.until_ready()
    group = deployment.cluster()["spec"]["workerGroupSpecs"][0]
    change = {"spec": {"workerGroupSpecs": [{**group, "minReplicas": 2, "maxReplicas": 1}]}}
    deployment.plane.api.merge(deployment.cluster_path, change)
    with following(deployment) as wait:
        assert "KubeRay refuses it" in wait.until_done(code=1)


@pytest.mark.usefixtures("slice_nodes")
def test_a_lost_host_costs_the_slice_and_is_told(deployment: Deployment, kubelet: Kubelet) -> None:
    kubelet.orders.held.add("*-stage-weights-*")
    deployment.apply()
    before = deployment.until_ready()
    hosts = {pod["metadata"]["uid"] for pod in deployment.hosts()}
    with following(deployment) as wait:
        wait.until_printed("weights")  # which keep it waiting
        kubelet.fail(deployment.hosts()[2]["metadata"]["name"], exit_code=137, reason="OOMKilled")
        wait.until_printed("is gone; KubeRay replaces it")
        wait_for(
            lambda: not hosts & {pod["metadata"]["uid"] for pod in deployment.pods()}, 20, "hosts of the broken slice stay"
        )
        kubelet.orders.held.clear()
        wait.until_done()
    head = next(pod for pod in before if pod["metadata"]["labels"]["ray.io/node-type"] == "head")
    assert head["metadata"]["uid"] in {pod["metadata"]["uid"] for pod in deployment.pods()}


@pytest.mark.usefixtures("slice_nodes")
def test_park_gives_the_hosts_back_and_unpark_brings_them_again(deployment: Deployment) -> None:
    deployment.apply()
    deployment.give_secrets()
    before = {pod["metadata"]["uid"] for pod in deployment.until_ready()}
    assert "no pods are left" in deployment.do("park", "--timeout=60")
    assert deployment.pods() == []
    assert "is parked" in deployment.do("status")
    assert "0 changed" in deployment.do("apply")  # which does not unpark
    assert "head ready, 4 of 4 hosts ready; apps: none" in deployment.do("unpark", "--timeout=60")
    assert not before & {pod["metadata"]["uid"] for pod in deployment.pods()}


@pytest.mark.usefixtures("tpu_webhook")
def test_an_api_server_that_restarts_in_the_middle(deployment: Deployment, cloud: Cloud, control_plane: ControlPlane) -> None:
    cloud.add_cpu_pool()
    deployment.apply()
    deployment.give_secrets()
    with following(deployment) as wait:
        wait.until_printed("waits for a node")
        control_plane.restart_apiserver()
        cloud.add_tpu_pool("slice-a")
        assert "4 of 4 hosts ready after" in wait.until_done()


def test_the_deadline_is_kept_and_names_every_reason(deployment: Deployment, cloud: Cloud) -> None:
    cloud.add_cpu_pool()
    deployment.apply()
    started = time.monotonic()
    late = deployment.run("wait", "--timeout=4")
    assert late.code == 1
    assert time.monotonic() - started < 15
    assert "not ready after 4 s" in late.err
    assert late.err.count("waits for a node") >= 4


@pytest.mark.usefixtures("slice_nodes")
def test_an_operator_that_is_stopped(
    deployment: Deployment, control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    with control_plane.paused("ray-operator"):
        deployment.apply()
        late = deployment.run("wait", "--timeout=1")
        assert "KubeRay has not seen it as it is now" in late.err
        monkeypatch.setattr("kuberay.reasons._SEEN_WITHIN_S", 0)
        for command, options in (("wait", ["--timeout=1"]), ("status", []), ("doctor", [])):
            text = deployment.run(command, *options).text
            assert re.search(r"KubeRay has not seen it for \d+ s: it does not run\s.*kuberay-operator", text, re.DOTALL), text
    deployment.until_ready()


def test_nothing_there_yet(deployment: Deployment) -> None:
    late = deployment.run("wait", "--timeout=1")
    assert (late.code, "scripts/cluster.py apply makes it" in late.err) == (1, True)

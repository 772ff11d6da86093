"""`deploy` through real port-forwards to an emulated head: apps of several people, two at once, lost and failing apps."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from emulation.kubernetes.nodes.api import wait_for
from emulation.kubernetes.nodes.cloud import Cloud
from emulation.kubernetes.nodes.kubelet import Kubelet
from tests.kuberay.deployment import Deployment
from tests.kuberay.fake_ray import FakeRay, running_fake_ray
from tests.kuberay.specs import ROOT

pytestmark = pytest.mark.full


@pytest.fixture
def head(kubelet: Kubelet) -> Iterator[FakeRay]:
    """Listens in the pod of whatever is the head."""
    with running_fake_ray() as (fake, port):
        kubelet.listen("gemma-head-*", 8265, port)
        yield fake


@pytest.fixture
def ray(deployment: Deployment, slice_nodes: Cloud, head: FakeRay) -> Deployment:  # noqa: ARG001
    """A deployment that is ready for apps."""
    deployment.apply()
    deployment.give_secrets()
    deployment.do("wait", "--timeout=60")
    return deployment


def chat_app(deployment: Deployment, name: str) -> Path:
    """A Serve config of another team, with one small app."""
    app = {
        "name": name,
        "route_prefix": f"/{name}",
        "import_path": "apps.chat:build_app",
        "args": {"api_url": "http://127.0.0.1:8000/v1", "open": True},
    }
    path = deployment.directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"http_options": {"host": "0.0.0.0", "port": 8000}, "applications": [app]}))
    return path


def test_apps_of_several_people_live_side_by_side(ray: Deployment, head: FakeRay) -> None:
    assert "running: llm, chat" in ray.do("deploy")
    assert "running: other; kept: llm, chat" in ray.do("deploy", str(chat_app(ray, "other")))
    assert head.names() == {"llm", "chat", "other"}
    assert "running: llm, chat" in ray.do("deploy", "--alone")
    assert head.names() == {"llm", "chat"}
    seen = json.loads(ray.do("status", "--json"))
    assert seen["ready"]
    assert seen["apps"] == {"llm": "RUNNING", "chat": "RUNNING"}


def test_two_people_deploy_at_once(ray: Deployment, head: FakeRay) -> None:
    processes = [ray.start("deploy", str(chat_app(ray, name))) for name in ("anna", "bert", "carla")]
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    assert head.names() == {"anna", "bert", "carla"}


def test_a_head_that_lost_its_apps_gets_them_again(ray: Deployment, head: FakeRay) -> None:
    ray.do("deploy")
    ray.do("deploy", str(chat_app(ray, "other")))
    head.deployed = {"applications": []}
    assert "the head has lost its apps (other, llm, chat)" in ray.do("status")
    assert "running: other, llm, chat" in ray.do("deploy", "--last")
    head.deployed = {"applications": []}
    ray.do("park", "--timeout=60")
    assert "apps: other, llm, chat" in ray.do("unpark", "--timeout=60")
    assert head.names() == {"llm", "chat", "other"}


def test_what_was_changed_by_other_tools_comes_back_too(ray: Deployment, head: FakeRay) -> None:
    """One history: of `change.py` with the cluster's file, of `serve deploy` past this project, and of `cluster.py`."""
    from kuberay.rollout.command import main as change

    ray.do("deploy")
    options = [f"--cluster={ray.spec}", f"--kubeconfig={ray.kubeconfig}"]
    assert change(["apply", str(chat_app(ray, "other")), "--timeout=30", *options]) == 0
    assert head.names() == {"llm", "chat", "other"}
    head.deployed = {"applications": []}
    assert "running: other, llm, chat" in ray.do("deploy", "--last")
    assert change(["rollback", *options]) == 0
    assert head.names() == {"llm", "chat"}
    changed = [{**app, "route_prefix": "/elsewhere"} for app in head.deployed["applications"] if app["name"] == "chat"]
    head.deployed = {**head.deployed, "applications": changed}  # `serve deploy`, past this project
    ray.do("park", "--timeout=60")
    head.deployed, head.started = {"applications": []}, False
    assert "apps: chat" in ray.do("unpark", "--timeout=60")
    assert head.deployed["applications"][0]["route_prefix"] == "/elsewhere"


def test_an_app_that_fails_is_told_with_its_reason(ray: Deployment, head: FakeRay) -> None:
    head.failures["llm"] = "Traceback (most recent call last):\n  ...\nValueError: no such model"
    failed = ray.run("deploy")
    assert failed.code == 1
    assert "app llm is DEPLOY_FAILED: ValueError: no such model" in failed.err
    head.failures = {"llm": None}
    slow = ray.run("deploy", "--timeout=2")
    assert slow.code == 1
    assert "not healthy after 2 s; llm: importing and building" in slow.err


def test_a_config_that_does_not_fit_the_cluster_never_reaches_it(ray: Deployment, head: FakeRay) -> None:
    config = (ROOT / "serve_configs" / "gemma.yaml").read_text().replace("topology: 4x4", "topology: 2x4")
    path = ray.directory / "wrong.yaml"
    path.write_text(config)
    refused = ray.run("deploy", str(path))
    assert refused.code == 2
    assert f"{path}:" in refused.err
    assert "the spec wants '4x4'" in refused.err or "2x4" in refused.err
    assert head.names() == set()


def test_the_token_opens_the_dashboard_and_is_never_shown(ray: Deployment, head: FakeRay) -> None:
    shown = ray.do("deploy") + ray.do("status") + ray.run("doctor").text
    secret = ray.plane.api.get(ray.path("secrets", "gemma"))["data"]["auth_token"]
    token = base64.b64decode(secret).decode()
    assert head.tokens == {f"Bearer {token}"}
    assert token not in shown


def test_a_cluster_that_is_not_ready_is_left_alone(deployment: Deployment) -> None:
    deployment.apply()
    wait_for(deployment.pods, 20, "no pods")
    refused = deployment.run("deploy")
    assert refused.code == 1
    assert "the cluster is not ready" in refused.err
    assert "waits for a node" in refused.err

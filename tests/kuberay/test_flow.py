"""The whole way on one machine: spec, the real operator's pods with Ray really running in them, apps, an answer, and back.

What is emulated is the machine under it: nodes, kubelets, the TPU driver and the model's arithmetic.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from emulation.hosts.config import emulated as emulated_config
from emulation.hosts.preflight import free_ports
from emulation.hosts.staged import stage_here, stand_in
from emulation.kubernetes.nodes.api import wait_for
from emulation.kubernetes.nodes.cloud import Cloud
from emulation.kubernetes.nodes.kubelet import Kubelet
from kuberay.manifests.pods import CACHE, WEIGHTS
from tests.kuberay.deployment import Deployment
from tests.kuberay.namespaces import is_ready

pytestmark = [pytest.mark.full, pytest.mark.timeout(2400)]
_MODEL = "google/gemma-4-31B-it"
_READY_S = 600
_SECOND_TEAM = """
applications:
  - name: chat
    route_prefix: /chat
    import_path: apps.chat:build_app
    args:
      api_url: http://127.0.0.1:8000/v1
      open: true
http_options: {host: 0.0.0.0, port: 8000}
"""


def emulated(directory: Path, url: str) -> Path:
    """The emulated slice's config as it has to be in pods, with weights from that URL and without the chat."""
    config = emulated_config()
    config["http_options"]["host"] = "0.0.0.0"
    config["applications"] = config["applications"][:1]
    config["applications"][0]["args"]["guard"] = {"open": True}
    (llm,) = config["applications"][0]["args"]["llm_configs"]
    llm["model_loading_config"]["model_source"] = f"{WEIGHTS}/gemma-4-31b-it"
    llm["callback_config"]["callback_kwargs"]["url"] = url
    llm["runtime_env"]["env_vars"]["VLLM_XLA_CACHE_PATH"] = f"{CACHE}/xla"
    path = directory / "emulated.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def flow(real_deployment: Deployment, real_kubelet: Kubelet, slice_nodes: Cloud) -> Deployment:  # noqa: ARG001
    """A spec of the emulated app, whose weights lie where all pods see them."""
    url, _ = stage_here(stand_in(real_kubelet.directory), real_kubelet.directory)
    real_kubelet.orders.held.add("*-worker-*")
    real_deployment.change(model__serve_config=str(emulated(real_deployment.directory, url)), metrics=False)
    return real_deployment


@contextmanager
def forwarded(deployment: Deployment) -> Iterator[str]:
    """The API's URL on this machine, by `forward` in a process of its own."""
    port, dashboard_port = free_ports(2)
    process = deployment.start("forward", f"--port={port}", f"--dashboard-port={dashboard_port}")
    try:
        assert process.stdout
        assert f"http://127.0.0.1:{port}/v1" in process.stdout.readline()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def answer(url: str, *, stream: bool = False) -> str:
    body = {
        "model": _MODEL,
        "messages": [{"role": "user", "content": "Why do hosts of a slice start together?"}],
        "max_tokens": 8,
    }
    if not stream:
        response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
        assert response.status_code == 200, response.text
        return str(response.json()["choices"][0]["message"]["content"])
    pieces = []
    with httpx.stream("POST", f"{url}/v1/chat/completions", json={**body, "stream": True}, timeout=60) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                pieces += [choice["delta"].get("content") or "" for choice in json.loads(line[6:])["choices"]]
    return "".join(pieces)


def status(deployment: Deployment) -> dict[str, Any]:
    return dict(json.loads(deployment.run("status", "--json").out))


def test_from_a_spec_to_an_answer_and_back(flow: Deployment, real_kubelet: Kubelet) -> None:
    started = time.monotonic()

    def note(what: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {what}")

    flow.apply()
    flow.give_secrets()
    note("applied")
    # First the head alone: KubeRay's hosts ask for it all the time, with a new Python each, which is much for two cores.
    wait_for(lambda: any(map(is_ready, flow.pods("ray.io/node-type=head"))), _READY_S, "the head is not Ready")
    note("the head is ready")
    real_kubelet.orders.held.clear()
    assert "head ready, 4 of 4 hosts ready" in flow.do("wait", f"--timeout={_READY_S}")
    note("five Ray nodes are ready")
    assert "running: llm" in flow.do("deploy", f"--timeout={_READY_S}")
    note("deployed")
    assert status(flow)["apps"] == {"llm": "RUNNING"}
    with forwarded(flow) as url:
        assert answer(url)
        assert len(answer(url, stream=True)) > 8
        note("answered")
    assert "ray" in flow.do("logs", "--tail=20").lower()
    refused = flow.run("deploy", str(broken(flow)), "--timeout=5")
    assert refused.code == 2, refused.text

    second = flow.directory / "second.yaml"
    second.write_text(_SECOND_TEAM)
    assert "running: chat; kept: llm" in flow.do("deploy", str(second), f"--timeout={_READY_S}")
    note("a second team's app runs beside it")
    assert "running: llm" in flow.do("deploy", "--alone", f"--timeout={_READY_S}")
    wait_for(lambda: status(flow)["apps"] == {"llm": "RUNNING"}, 60, "the other app stays")

    head = next(pod for pod in flow.pods() if pod["metadata"]["labels"]["ray.io/node-type"] == "head")
    real_kubelet.orders.held.add("*-worker-*")
    real_kubelet.fail(head["metadata"]["name"])
    note("the head is killed")
    wait_for(lambda: status(flow)["apps"] not in (None, {}, {"llm": "RUNNING"}), 240, lambda: str(status(flow)))
    note("the new head has its app again, without hosts")
    real_kubelet.orders.held.clear()
    flow.do("wait", f"--timeout={_READY_S}")
    note("ready again")
    wait_for(lambda: status(flow)["apps"] == {"llm": "RUNNING"}, _READY_S, lambda: str(status(flow)))
    note("the app is back by itself")
    with forwarded(flow) as url:
        assert answer(url)
    note("answered again")
    flow.do("down", "--timeout=60")
    assert flow.pods() == []
    note("gone")


def broken(deployment: Deployment) -> Path:
    path = deployment.directory / "broken.yaml"
    path.write_text((deployment.directory / "emulated.yaml").read_text().replace("topology: 4x4", "topology: 2x4"))
    return path

"""The played kubelets, by what kubectl and the API server show of single pods."""

import contextlib
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from emulation.hosts.preflight import free_ports
from emulation.kubernetes import build
from emulation.kubernetes.nodes.api import Json, wait_for
from emulation.kubernetes.nodes.cloud import Cloud
from emulation.kubernetes.nodes.kubelet import Kubelet
from tests.kuberay.manifests import IMAGE, pod
from tests.kuberay.namespaces import condition, is_ready, messages
from tests.kuberay.plane import ControlPlane

pytestmark = pytest.mark.full
_SECOND = 15


@pytest.fixture(autouse=True)
def nodes(cloud: Cloud) -> None:
    cloud.add_cpu_pool()


def waiting(found: Json) -> Json:
    statuses = found["status"].get("containerStatuses", [{"state": {}}])
    return dict(statuses[0]["state"].get("waiting", {}))


def test_an_image_that_no_registry_has(control_plane: ControlPlane, kubelet: Kubelet, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods/a"
    kubelet.orders.unpullable.add("*/ray/serve:*")
    control_plane.apply(pod("a"), namespace=namespace)
    seen = wait_for(lambda: waiting(control_plane.api.get(path)).get("reason") == "ImagePullBackOff", _SECOND, "no back-off")
    assert seen
    said = messages(control_plane.api, namespace, "Failed")
    assert said[0].startswith(f'Failed to pull image "{IMAGE}": rpc error: code = NotFound')
    kubelet.orders.unpullable.clear()
    wait_for(lambda: is_ready(control_plane.api.get(path)), _SECOND, "not Ready with its image")


def test_a_secret_that_comes_late(control_plane: ControlPlane, namespace: str) -> None:
    api, path = control_plane.api, f"/api/v1/namespaces/{namespace}/pods/a"
    reference = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf-secret", "key": "token"}}}
    control_plane.apply(pod("a", env=[reference]), namespace=namespace)
    wait_for(lambda: waiting(api.get(path)).get("reason") == "CreateContainerConfigError", _SECOND, "it does not wait")
    assert waiting(api.get(path))["message"] == 'secret "hf-secret" not found'
    api.create(f"/api/v1/namespaces/{namespace}/secrets", {"metadata": {"name": "hf-secret"}, "stringData": {"token": "x"}})
    wait_for(lambda: is_ready(api.get(path)), _SECOND, "not Ready with its secret")


def test_restarts_and_failures_follow_the_policy(control_plane: ControlPlane, kubelet: Kubelet, namespace: str) -> None:
    api, paths = control_plane.api, [f"/api/v1/namespaces/{namespace}/pods/{name}" for name in ("a", "b")]
    control_plane.apply(pod("a"), pod("b", policy="Never"), namespace=namespace)
    wait_for(lambda: all(is_ready(api.get(path)) for path in paths), _SECOND, "not Ready")
    for name in ("a", "b"):
        kubelet.fail(name, exit_code=137, reason="OOMKilled")
    wait_for(lambda: api.get(paths[1])["status"]["phase"] == "Failed", _SECOND, "b did not fail")
    wait_for(lambda: is_ready(api.get(paths[0])), _SECOND, "a is not Ready again")
    (status,) = api.get(paths[0])["status"]["containerStatuses"]
    assert status["restartCount"] == 1
    assert status["lastState"]["terminated"]["reason"] == "OOMKilled"


def test_slow_and_never_ready_pods(control_plane: ControlPlane, kubelet: Kubelet, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods/a"
    kubelet.orders.slow["a"] = 1.0
    kubelet.orders.unready.add("a")
    control_plane.apply(pod("a"), namespace=namespace)
    found = wait_for(lambda: waiting(control_plane.api.get(path)), _SECOND, "never seen waiting")
    assert found["reason"] == "ContainerCreating"
    wait_for(lambda: control_plane.api.get(path)["status"]["phase"] == "Running", _SECOND, "not Running")
    assert condition(control_plane.api.get(path), "Ready")["message"] == "containers with unready status: [main]"
    kubelet.orders.unready.clear()
    wait_for(lambda: is_ready(control_plane.api.get(path)), _SECOND, "not Ready")


def test_logs_and_a_port_forward(control_plane: ControlPlane, kubelet: Kubelet, namespace: str) -> None:
    control_plane.apply(pod("a"), namespace=namespace)
    wait_for(lambda: is_ready(control_plane.api.get(f"/api/v1/namespaces/{namespace}/pods/a")), _SECOND, "not Ready")
    kubelet.log("a", "one")
    kubelet.log("a", "two")
    assert control_plane.kubectl("logs", "a", f"--namespace={namespace}", "--tail=1") == "two\n"
    (port,) = free_ports(1)
    with greeting_server() as server_port:
        kubelet.listen("a", 8265, server_port)
        assert control_plane.kubectl("get", "--raw", f"/api/v1/namespaces/{namespace}/pods/a:8265/proxy/x") == "hello from /x"
        command = [
            str(build.programs().path("kubectl")),
            f"--kubeconfig={control_plane.kubeconfig}",
            f"--namespace={namespace}",
        ]
        forward = subprocess.Popen([*command, "port-forward", "pod/a", f"{port}:8265"], stdout=subprocess.DEVNULL)
        try:
            wait_for(lambda: not_refused(port), _SECOND, "kubectl does not listen")
            assert urllib.request.urlopen(f"http://127.0.0.1:{port}/y", timeout=5).read() == b"hello from /y"
        finally:
            forward.kill()
            forward.wait()


def test_a_node_that_crashes_and_comes_back(
    control_plane: ControlPlane, cloud: Cloud, kubelet: Kubelet, namespace: str
) -> None:
    api, (node,) = control_plane.api, cloud.nodes()
    patient = pod("a")
    patient["spec"]["tolerations"] = [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}]
    control_plane.apply(patient, pod("b"), namespace=namespace)
    paths = [f"/api/v1/namespaces/{namespace}/pods/{name}" for name in ("a", "b")]
    wait_for(lambda: all(is_ready(api.get(path)) for path in paths), _SECOND, "not Ready")
    cloud.add_cpu_pool("other")  # Kubernetes evicts nothing while all nodes are gone
    kubelet.crash_node(node)
    wait_for(lambda: "deletionTimestamp" in api.get(paths[1])["metadata"], _SECOND, "b is not evicted")
    wait_for(lambda: not is_ready(api.get(paths[0])), _SECOND, "a stays Ready")
    kubelet.recover_node(node)
    wait_for(lambda: api.find(paths[1]) is None, _SECOND, "b does not end")
    wait_for(lambda: is_ready(api.get(paths[0])), _SECOND, "a is not Ready again")
    assert api.get(paths[0])["status"]["containerStatuses"][0]["restartCount"] == 1


@contextlib.contextmanager
def greeting_server() -> Iterator[int]:
    class Greeting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"hello from {self.path}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = HTTPServer(("127.0.0.1", 0), Greeting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def not_refused(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False

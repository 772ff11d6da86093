"""Emulated kubelets of all nodes: pods that the real scheduler has bound come to life, and a test can disturb them.

The runtime decides whether anything runs in them: `EmulatedRuntime` runs nothing, `sandbox.SandboxRuntime` their commands.
"""

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import httpx

from emulation.kubernetes import build
from emulation.kubernetes.layout import Layout
from emulation.kubernetes.nodes.api import Api, Json, wait_for
from emulation.kubernetes.nodes.node_files import PodFiles, write_forwards
from emulation.kubernetes.nodes.orders import Orders
from emulation.kubernetes.nodes.pod_life import PodLife
from emulation.kubernetes.nodes.runtime import EmulatedRuntime, Runtime

_WATCH_S = 10
_RECONNECT_S = 0.2
_START_S = 10


class Kubelet:
    """Lives of pods by their uid. Use `running_kubelet`."""

    def __init__(self, api: Api, runtime: Runtime, directory: Path) -> None:
        self._api, self._runtime = api, runtime
        self.directory = directory
        """The directory of the pods' files; pods that really run see it, too."""
        self._lives: dict[str, PodLife] = {}
        self._threads: list[PodLife] = []
        self._listening: list[tuple[str, int, int]] = []
        self._forwards: dict[str, str] = {}
        self._addresses = itertools.count(2)
        self.orders = Orders()
        """Slow pods, missing images and so on: change them at any time."""

    def fail(self, pod: str, exit_code: int = 1, reason: str = "Error") -> None:
        """Let a pod's first container end by itself, for example with 137 and `OOMKilled`."""
        self._life(pod).fail(exit_code, reason)

    def listen(self, pods: str, port: int, to_port: int) -> None:
        """Let a port of pods (a pattern, also for those to come) be a server on loopback, for what comes by the API server."""
        self._listening.append((pods, port, to_port))
        for life in list(self._lives.values()):
            self._lead(life)

    def run(self) -> None:
        """Follow the pods until the test is over."""
        while not self.orders.stopping.is_set():
            try:
                self._follow()
            except (httpx.HTTPError, ValueError):  # the API server restarts, or a watch was cut in the middle of a line
                time.sleep(_RECONNECT_S)

    def stop(self) -> None:
        self.orders.stopping.set()
        for life in self._threads:
            life.join()

    def _follow(self) -> None:
        listed = self._api.get("/api/v1/pods")
        for pod in listed["items"]:
            self._see(pod)
        there = {pod["metadata"]["uid"] for pod in listed["items"]}
        for uid in self._lives.keys() - there:
            self._forget(uid)
        for kind, pod in self._api.watch("/api/v1/pods", listed["metadata"]["resourceVersion"], _WATCH_S):
            if self.orders.stopping.is_set() or kind == "ERROR":
                return
            if kind == "DELETED":
                self._forget(pod["metadata"]["uid"])
            elif kind != "BOOKMARK":
                self._see(pod)

    def _see(self, pod: Json) -> None:
        uid, node = pod["metadata"]["uid"], pod["spec"].get("nodeName")
        if known := self._lives.get(uid):
            known.pod = pod
        elif node and (node_ip := self._node_ip(node)):
            number = next(self._addresses)
            ip = f"10.64.{number // 250}.{number % 250 + 2}"
            files = PodFiles(self.directory, pod["metadata"]["namespace"], pod["metadata"]["name"])
            life = self._lives[uid] = PodLife(self._api, self._runtime, self.orders, files, pod, ip, node_ip)
            self._threads.append(life)
            self._lead(life)
            life.start()

    def _lead(self, life: PodLife) -> None:
        name = life.pod["metadata"]["name"]
        forwards = {f"{life.ip}:{port}": f"127.0.0.1:{to}" for pods, port, to in self._listening if fnmatchcase(name, pods)}
        if forwards:
            self._forwards |= forwards
            write_forwards(self.directory, self._forwards)

    def _forget(self, uid: str) -> None:
        if life := self._lives.pop(uid, None):
            life.gone.set()

    def _node_ip(self, name: str) -> str | None:
        node = self._api.find(f"/api/v1/nodes/{name}")
        addresses = node["status"].get("addresses", []) if node else []
        return next((entry["address"] for entry in addresses if entry["type"] == "InternalIP"), None)

    def _life(self, pod: str) -> PodLife:
        lives = [life for life in self._lives.values() if life.pod["metadata"]["name"] == pod]
        assert len(lives) == 1, f"{pod}: {len(lives)} pods of that name on any node"
        return lives[0]


@contextmanager
def running_kubelet(layout: Layout, api: Api, directory: Path, runtime: Runtime | None = None) -> Iterator[Kubelet]:
    """Kubelets for all nodes of a control plane; `directory` is for the pods' files. Pods that still run are left."""
    runtime = runtime or EmulatedRuntime()
    pki = layout.directory / "pki"
    nodes = runtime.popen(
        [
            str(build.programs().path("nodes")),
            f"--socket={layout.egress_socket}",
            f"--pods={directory}",
            f"--tls-cert-file={layout.serving.certificate}",
            f"--tls-private-key-file={layout.serving.key}",
            f"--client-ca-file={pki / 'cluster-ca.crt'}",
            f"--pods-are-here={str(runtime.has_network).lower()}",
        ],
        directory / "nodes.log",
    )
    kubelet = Kubelet(api, runtime, directory)
    thread = threading.Thread(target=kubelet.run, name="kubelet", daemon=True)
    thread.start()
    try:
        wait_for(lambda: layout.egress_socket.exists() or nodes.poll() is not None, _START_S, "no road to the nodes")
        yield kubelet
    finally:
        kubelet.stop()
        nodes.kill()
        nodes.wait()
        layout.egress_socket.unlink(missing_ok=True)

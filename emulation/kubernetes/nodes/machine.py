"""Machines for people to try things on: nodes for the head, one TPU slice, their kubelets, and GKE's TPU webhook."""

import signal
from pathlib import Path
from threading import Event

from emulation.kubernetes.layout import Layout
from emulation.kubernetes.nodes.api import Api
from emulation.kubernetes.nodes.cloud import Cloud
from emulation.kubernetes.nodes.kubelet import running_kubelet
from emulation.kubernetes.nodes.sandbox import sandboxes
from emulation.kubernetes.nodes.webhook import running_tpu_webhook

_HEAD_START_S = 15  # for the head alone: KubeRay lets hosts ask for it all the time, with a new Python each


def run(directory: Path, topology: str, *, running: bool) -> int:
    """Emulate them until SIGTERM. `running`: the pods' commands really run, else every container only reports that it does."""
    layout = Layout(directory)
    api, pods = Api(layout.kubeconfig), directory / "pods"
    pods.mkdir(exist_ok=True)
    Cloud(api).remove_all()  # of a run that was killed
    cloud = Cloud(api)
    cloud.add_cpu_pool(nodes=2)
    cloud.add_tpu_pool("slice-a", topology)
    ended = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with running_tpu_webhook(layout, api):
        if not running:
            with running_kubelet(layout, api, pods):
                ended.wait()
        else:
            with (
                sandboxes(api, layout.egress_socket, pods) as runtime,
                running_kubelet(layout, api, pods, runtime) as kubelet,
            ):
                kubelet.orders.slow["*-worker-*"] = _HEAD_START_S
                ended.wait()
    return 0

"""Ports of a pod on this machine's loopback, through the API server: what `kubectl port-forward` does, from Python."""

import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from apps.common.errors import OperationError, UserError
from kuberay import names
from kuberay.api import Api, ForbiddenError
from kuberay.dashboard import Dashboard
from kuberay.spec import Spec
from kuberay.state import State

_LOOPBACK = "127.0.0.1"
_CHUNK_BYTES = 64 * 1024


@contextmanager
def forwarded_dashboard(api: Api, spec: Spec, state: State) -> Iterator[Dashboard]:
    """The dashboard of a cluster, on this machine inside the block. Raises `OperationError` without a head, or its token."""
    if state.head is None:
        raise OperationError("there is no head to ask: scripts/cluster.py wait shows why")
    token = _token(api, spec)
    with forwarding(api, state.head["metadata"]["name"], spec.namespace, names.PORTS["dashboard"]) as port:
        yield Dashboard(f"http://{_LOOPBACK}:{port}", token)


@contextmanager
def forwarding(api: Api, pod: str, namespace: str, port: int, local_port: int = 0) -> Iterator[int]:
    """The local port (a free one for 0) that leads to the pod's port inside the block. Raises `UserError` if it is taken."""
    try:
        listener = socket.create_server((_LOOPBACK, local_port))
    except OSError as error:
        raise UserError(f"port {local_port} of this machine is taken ({error.strerror}): choose another") from None
    threading.Thread(target=_serve, args=(api, pod, namespace, port, listener), daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


def _token(api: Api, spec: Spec) -> str | None:
    """The cluster's token, or None where it has none. Raises `OperationError` if it is not there yet, or may not be read."""
    if spec.auth == "none":
        return None
    name = names.ray_token(spec.name, spec.kind)
    try:
        secret = api.get("Secret", name, spec.namespace)
    except ForbiddenError as error:
        raise OperationError(f"you may not read the cluster's token (Secret/{name}): {error}") from error
    if secret is None or names.TOKEN_KEY not in secret.get("data", {}):
        raise OperationError(f"Secret/{name} with the cluster's token does not exist: KubeRay creates it with the cluster")
    return base64.b64decode(secret["data"][names.TOKEN_KEY]).decode()


def _serve(api: Api, pod: str, namespace: str, port: int, listener: socket.socket) -> None:
    with suppress(OSError):  # closed: the block has ended
        while True:
            near, _ = listener.accept()
            threading.Thread(target=_connect, args=(api, pod, namespace, port, near), daemon=True).start()


def _connect(api: Api, pod: str, namespace: str, port: int, near: socket.socket) -> None:
    try:
        far = api.port_forward(pod, namespace, port)
    except OperationError:
        near.close()  # whoever connected sees a broken connection, and asks again or reports it
        return
    back = threading.Thread(target=_copy, args=(far, near), daemon=True)
    back.start()
    _copy(near, far)
    back.join()
    for end in (near, far):
        end.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK_BYTES):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)

"""Ports of a pod on this machine's loopback, through the API server: what `kubectl port-forward` does, from Python."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from apps.common.errors import OperationError, UserError
from kuberay.api import Api

_LOOPBACK = "127.0.0.1"
_CHUNK_BYTES = 64 * 1024


@contextmanager
def forwarding(api: Api, pod: str, namespace: str, port: int, local_port: int = 0) -> Iterator[int]:
    """The local port (a free one for 0) that leads to the pod's port inside the block.

    Raises:
        UserError: the local port is taken.
    """
    listener = socket.create_server((_LOOPBACK, 0)) if local_port == 0 else _listen(local_port)
    threading.Thread(target=_serve, args=(api, pod, namespace, port, listener), daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((_LOOPBACK, port))
    except OSError as error:
        raise UserError(f"port {port} of this machine is taken ({error.strerror}): choose another") from None


def _serve(api: Api, pod: str, namespace: str, port: int, listener: socket.socket) -> None:
    with suppress(OSError):  # closed: the block has ended
        while True:
            near, _ = listener.accept()
            threading.Thread(target=_connect, args=(api, pod, namespace, port, near), daemon=True).start()


def _connect(api: Api, pod: str, namespace: str, port: int, near: socket.socket) -> None:
    try:
        far = api.port_forward(pod, namespace, port)
    except OperationError:
        near.close()  # whoever connected sees a broken connection, and asks again or says so
        return
    back = threading.Thread(target=_copy, args=(far, near), daemon=True)
    back.start()
    _copy(near, far)
    back.join()
    for one in (near, far):
        one.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK_BYTES):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)

"""Find out who can reach what Serve listens on, and keep a replica's internal gRPC server on loopback when its Ray node is.

Serve binds that server to all interfaces. Touches Ray's private `ray.serve._private.replica.add_port_to_grpc_server` (pinned:
2.60.0); if that name goes, the port is open on all interfaces again, which tests/e2e notices. The controller's name and its
`get_http_config` are Serve's own as well; without them the node's address decides.
"""

import ipaddress
from typing import Any

_CONTROLLER, _NAMESPACE, _TIMEOUT_S = "SERVE_CONTROLLER_ACTOR", "serve", 20


def is_loopback(host: str) -> bool:
    """True for an address or name that only this machine can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_host() -> str | None:
    """The address at which other machines reach this Serve; None if they do not, or where no Ray runs (a test)."""
    import ray

    if not ray.is_initialized():
        return None
    try:
        controller = ray.get_actor(_CONTROLLER, namespace=_NAMESPACE)
        host = str(ray.get(controller.get_http_config.remote(), timeout=_TIMEOUT_S).host)
    except (ValueError, AttributeError, ray.exceptions.GetTimeoutError):  # an app that is built before Serve runs
        host = str(ray.util.get_node_ip_address())
    return None if is_loopback(host) else host


def keep_replica_on_loopback() -> None:
    """Call in a replica's constructor. Does nothing on a node with an address of its own, as in a cluster."""
    import ray

    if ray.util.get_node_ip_address() != "127.0.0.1":
        return
    from ray.serve._private import replica

    original = replica.add_port_to_grpc_server

    def on_loopback(server: Any, address: str) -> int:
        return original(server, address.replace("[::]", "127.0.0.1"))

    replica.add_port_to_grpc_server = on_loopback

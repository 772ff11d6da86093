"""Keep a replica's internal gRPC server on loopback when its Ray node is: Serve binds it to all interfaces.

Touches Ray's private `ray.serve._private.replica.add_port_to_grpc_server` (pinned: 2.60.0); if that name goes, the port is
open on all interfaces again, which tests/e2e notices.
"""

from typing import Any


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

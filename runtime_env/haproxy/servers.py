"""Keep an app's replicas in HAProxy's configuration while Serve rebuilds the app. Pure: from text to text.

For those seconds Ray Serve 2.60 configures no replica for the app, though all of them run and answer
(`get_target_groups`: an app that is being built has no ingress deployment).
"""

import re
from collections.abc import Iterator

Servers = dict[str, list[list[str]]]
"""[name, address] of each replica, by backend."""

_REPLICA, _FALLBACK = "SERVE_REPLICA_", "SERVE_PROXY_ACTOR-fallback"
_ON_TRIAL = "check inter 250ms fall 1 rise 1 observe layer4 error-limit 1 on-error mark-down"
"""A first failed connection or check takes it out."""


def keep_servers(config: str, last: Servers) -> tuple[str, Servers]:
    """(the configuration, the servers to remember): a backend that has lost all of its replicas keeps the last ones, on trial.

    An address that another backend has now is dropped, because its port was reused.
    """
    now: Servers = {}
    for backend, line in _lines(config):
        if _is_server(line, _REPLICA):
            now.setdefault(backend, []).append(line.split()[1:3])
    taken = {address for servers in now.values() for _, address in servers}
    kept: Servers = {}
    text = []
    for backend, line in _lines(config):
        if line.startswith("backend "):
            kept[backend] = now.get(backend) or last.get(backend, [])
        if _is_server(line, _FALLBACK) and backend not in now:
            servers = kept.get(backend, [])
            text += [f"    server {name} {address} {_ON_TRIAL}" for name, address in servers if address not in taken]
        text.append(line)
    return "\n".join(text) + "\n", kept


def _lines(config: str) -> Iterator[tuple[str, str]]:
    """Each line with the backend that it belongs to; an empty name outside of backends."""
    backend = ""
    for line in config.splitlines():
        if re.match("[a-z]", line):
            backend = line.split()[1] if line.startswith("backend ") else ""
        yield backend, line


def _is_server(line: str, kind: str) -> bool:
    return line.lstrip().startswith(f"server {kind}")

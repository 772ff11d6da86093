"""Edit the configuration that `-f` names, and execute HAProxy with the result.

Needs HAPROXY_BINARY, the real one, HAPROXY_UNAVAILABLE_PORT, a free port on loopback, and apps in their web server's loop
(`_ONE_LOOP`); `Settings` has the others.

HAProxy gets -dS, and so splices nothing. With Ray's `option splice-request`, HAProxy 2.8 spins at full speed when a client
leaves that sent its request in two pieces, as httpx and so the openai client do, and the replica does not learn of it.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime_env.haproxy.config import CONNECTION_RATE, CONNECTIONS, Settings, UnexpectedConfigError, edited
from runtime_env.haproxy.servers import Servers, keep_servers

_ONE_LOOP = "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD"
"""Variable of Serve 2.60. By default, 1, apps run in a thread of their own; where `config` leaves disconnects to them, they
read bodies, without a lock, straight from the web server in another: parts get lost, and what is there is seen late."""


def main(arguments: Sequence[str]) -> None:
    """Replace this process by HAProxy. Raises `SystemExit` where the environment lacks something."""
    for name in ("HAPROXY_BINARY", "HAPROXY_UNAVAILABLE_PORT"):
        if not os.environ.get(name):
            sys.exit(f"error: {name} is not set; see runtime_env/haproxy/__main__.py")
    if os.environ.get(_ONE_LOOP) != "0":
        sys.exit(f"error: {_ONE_LOOP} must be 0 in the environment of every Ray node: else parts of requests' bodies get lost")
    log = _open_log(os.environ.get("HAPROXY_LOG"))
    if os.environ.get("HAPROXY_TLS_PEM") and not os.environ.get("HAPROXY_TLS_BIND"):
        sys.exit("error: HAPROXY_TLS_PEM is set without HAPROXY_TLS_BIND, the HOST:PORT for HTTPS (such as 0.0.0.0:8443)")
    settings = Settings(
        unavailable_port=os.environ["HAPROXY_UNAVAILABLE_PORT"],
        bind_host=os.environ.get("HAPROXY_BIND_HOST") or "*",
        tls_pem=os.environ.get("HAPROXY_TLS_PEM"),
        tls_bind=os.environ.get("HAPROXY_TLS_BIND"),
        logs=log is not None,
        connections=_count("HAPROXY_CONNECTIONS_PER_ADDRESS", CONNECTIONS),
        connection_rate=_count("HAPROXY_CONNECTION_RATE_PER_ADDRESS", CONNECTION_RATE),
    )
    try:
        ours = [
            str(_written(Path(argument), settings)) if before == "-f" else argument
            for before, argument in zip(["", *arguments], arguments, strict=False)
        ]
    except UnexpectedConfigError as error:
        sys.exit(f"error: {error}")
    if log is not None:
        os.dup2(log, sys.stdout.fileno())
    binary = os.environ["HAPROXY_BINARY"]
    os.execv(binary, [binary, "-dS", *ours])  # noqa: S606 - Ray's arguments, no shell


def _count(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isascii() or not text.isdigit():
        sys.exit(f"error: {name} is {text!r}: it must be a number of connections, or 0 for no limit")
    return int(text)


def _open_log(path: str | None) -> int | None:
    """Open a file, or a container's own output (/proc/1/fd/1); None where it cannot be written: requests work without it."""
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if path else None
    except OSError:
        return None


def _written(config: Path, settings: Settings) -> Path:
    """Write the file that HAProxy reads, beside Ray's."""
    memory = config.with_name(f"{config.name}.servers")
    text, servers = keep_servers(config.read_text(), _remembered(memory))
    ours = config.with_name(f"{config.name}.ours")
    ours.write_text(edited(text, settings))
    new = config.with_name(f"{config.name}.servers.new")
    new.write_text(json.dumps(servers))
    new.replace(memory)
    return ours


def _remembered(memory: Path) -> Servers:
    try:
        return dict(json.loads(memory.read_text()))
    except (OSError, ValueError):
        return {}


if __name__ == "__main__":
    main(sys.argv[1:])

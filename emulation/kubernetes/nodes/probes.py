"""A container's readiness probe and its last command before it ends, for containers that really run. Liveness is not probed."""

import http.client
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from emulation.kubernetes.nodes.api import Json

_TIMEOUT_S = 3.0
_PERIOD_S = {
    False: 0.3,
    True: 3.0,
}  # of a container that is not ready, and of one that is; a kubelet's are about ten times as long
_FAILURES = 3  # in a row, until a ready container is not ready any more


class Probe:
    """`enter` is the beginning of a command line that runs in the container; HTTP goes by the road to the nodes."""

    def __init__(self, egress: Path, ip: str, container: Json, enter: Callable[[], list[str]]) -> None:
        self._egress, self._ip, self._container, self._enter = egress, ip, container, enter
        self._ready, self._failures, self._next = False, 0, 0.0

    def passes(self) -> bool:
        """The result of the last probe; a new one is made when it is time."""
        if time.monotonic() >= self._next:
            self._failures = 0 if self._ask() else self._failures + 1
            self._ready = self._failures == 0 or (self._ready and self._failures < _FAILURES)
            self._next = time.monotonic() + _PERIOD_S[self._ready]
        return self._ready

    def run_pre_stop(self, seconds: float) -> None:
        command = self._container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        if command:
            self._succeeds(command, seconds)

    def _ask(self) -> bool:
        probe = self._container.get("readinessProbe", {})
        if get := probe.get("httpGet"):
            return self._get(self._port(get["port"]), get.get("path", "/"))
        if tcp := probe.get("tcpSocket"):
            return self._get(self._port(tcp["port"]), None)
        if execute := probe.get("exec"):
            return self._succeeds(execute["command"], _TIMEOUT_S)
        return True

    def _get(self, port: int, path: str | None) -> bool:
        """Whether the port answers; without a path, whether it can be connected to."""
        with socket.socket(socket.AF_UNIX) as road:
            road.settimeout(_TIMEOUT_S)
            try:
                road.connect(str(self._egress))
                road.sendall(f"CONNECT {self._ip}:{port} HTTP/1.1\r\n\r\n".encode())
                if not road.recv(256).startswith(b"HTTP/1.1 200"):
                    return False
                if path is None:
                    return True
                road.sendall(f"GET {path} HTTP/1.0\r\nHost: {self._ip}\r\n\r\n".encode())
                answer = http.client.HTTPResponse(road)
                answer.begin()
                return http.client.OK <= answer.status < http.client.BAD_REQUEST
            except (OSError, http.client.HTTPException):
                return False

    def _succeeds(self, command: list[str], seconds: float) -> bool:
        try:
            return subprocess.run([*self._enter(), *command], capture_output=True, timeout=seconds).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def _port(self, port: int | str) -> int:
        named = {entry["name"]: entry["containerPort"] for entry in self._container.get("ports", []) if "name" in entry}
        return port if isinstance(port, int) else int(named[port])

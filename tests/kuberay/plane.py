"""The real control plane of the tests: started by the command that people use, once per test session."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from emulation.kubernetes import build
from emulation.kubernetes.client import answers
from emulation.kubernetes.command import kubeconfig_for
from emulation.kubernetes.layout import Layout
from emulation.kubernetes.nodes.api import Api, wait_for

ROOT = Path(__file__).resolve().parents[2]
_START_S = 1500  # a build on a busy machine is part of it
_RESTART_S = 60


@dataclass(frozen=True)
class ControlPlane:
    """etcd, API server, controller manager, scheduler and KubeRay operator, all real, with RBAC; no nodes.

    `kubectl` and `api` act as its administrator.
    """

    layout: Layout
    port: int

    @property
    def kubeconfig(self) -> Path:
        return self.layout.kubeconfig

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @cached_property
    def api(self) -> Api:
        return Api(self.kubeconfig)

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig of a person without any rights but those that RBAC gives to the name and the groups."""
        return kubeconfig_for(self.layout, self.port, user, groups)

    def kubectl(self, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None) -> str:
        """What kubectl printed. Raises `subprocess.CalledProcessError`, with its message in `stderr`."""
        command = [str(build.programs().path("kubectl")), f"--kubeconfig={kubeconfig or self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
        done.check_returncode()
        return done.stdout

    def restart_apiserver(self) -> None:
        """Kill the API server; return when its successor, on the same port and with the same data, answers."""
        process = json.loads(self.layout.running.read_text())["kube-apiserver"]
        os.kill(process, signal.SIGKILL)
        wait_for(
            lambda: json.loads(self.layout.running.read_text())["kube-apiserver"] != process, _RESTART_S, "no new API server"
        )
        wait_for(self._ready, _RESTART_S, "the API server is not ready again")

    @contextmanager
    def paused(self, part: str) -> Iterator[None]:
        """One program does nothing inside the block."""
        process = json.loads(self.layout.running.read_text())[part]
        os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process, signal.SIGCONT)

    def _ready(self) -> bool:
        return answers(self.port, "/readyz", self.layout.cluster_authority.pair.certificate, self.layout.admin)


@contextmanager
def running_control_plane(state: Path) -> Iterator[ControlPlane]:
    """`scripts/control_plane.sh up`, and down at the end; it ends with this process, too. `state` is a directory of its own."""
    environment = {**os.environ, "XDG_STATE_HOME": str(state)}

    def command(*arguments: str) -> str:
        script = [str(ROOT / "scripts" / "control_plane.sh"), *arguments]
        done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=_START_S)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    started = time.monotonic()
    command("up", "--detach", "--nodes=none", f"--with-process={os.getpid()}")
    seen = json.loads(command("status", "--json"))["running"]
    print(f"\ncontrol plane: ready after {time.monotonic() - started:.0f} s")
    plane = ControlPlane(Layout(Path(seen["kubeconfig"]).parent), seen["port"])
    try:
        yield plane
    finally:
        command("down")

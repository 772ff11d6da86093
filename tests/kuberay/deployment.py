"""One deployment of a test: its spec, scripts/cluster.py for it, and what the API server shows of it."""

import contextlib
import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from emulation.kubernetes.nodes.api import Json, wait_for
from kuberay.command import main
from tests.kuberay.namespaces import cleared, is_ready, pods
from tests.kuberay.plane import ROOT, ControlPlane
from tests.kuberay.specs import write_spec

HOSTS = "ray.io/group=tpu"
_READY_S = 40
_SECRETS = {"hub-token": {"token": "hf_x"}, "api-keys": {"keys.json": "{}"}}


@dataclass(frozen=True)
class Outcome:
    """How one command ended: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass
class Deployment:
    """`directory` holds the spec; `kubeconfig` is whose the commands are, the administrator's at first."""

    plane: ControlPlane
    directory: Path
    namespace: str
    kubeconfig: Path
    name: str = "gemma"

    @property
    def spec(self) -> Path:
        return self.directory / "spec.yaml"

    def change(self, **changes: Any) -> None:
        """Write the spec anew: the example with these changes (see `write_spec`)."""
        write_spec(self.directory, name=self.name, namespace=self.namespace, **changes)

    def arguments(self, command: str, *options: str, kubeconfig: Path | None = None) -> list[str]:
        return [command, str(self.spec), *options, f"--kubeconfig={kubeconfig or self.kubeconfig}"]

    def run(self, command: str, *options: str, kubeconfig: Path | None = None) -> Outcome:
        """The command, in this process: what takes long is the start of a new Python."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(self.arguments(command, *options, kubeconfig=kubeconfig))
        return Outcome(code, out.getvalue(), err.getvalue())

    def do(self, command: str, *options: str, kubeconfig: Path | None = None) -> str:
        """The command, which must succeed; what it printed."""
        done = self.run(command, *options, kubeconfig=kubeconfig)
        assert done.code == 0, done.text
        return done.text

    def prepare(self, *options: str) -> str:
        """Make what has to be there before pods: the namespace, and the secrets that people make."""
        output = self.do("apply", "--part=platform", *options)
        self.give_secrets()
        return output

    def apply(self, *options: str) -> str:
        """Apply as docs/gke.md has it, in two steps; all that they printed."""
        return self.prepare(*options) + self.do("apply", *options)

    def render(self) -> str:
        """What `render` prints; it asks no cluster, so it takes no kubeconfig."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert main(["render", str(self.spec)]) == 0
        return out.getvalue()

    def start(
        self, command: str, *options: str, kubeconfig: Path | None = None, output: IO[str] | int = subprocess.PIPE
    ) -> "subprocess.Popen[str]":
        """The command as people run it, in a process of its own."""
        script = [sys.executable, str(ROOT / "scripts" / "cluster.py")]
        arguments = self.arguments(command, *options, kubeconfig=kubeconfig)
        return subprocess.Popen([*script, *arguments], stdout=output, stderr=subprocess.STDOUT, text=True)

    def make_namespace(self) -> None:
        """Before `apply` would, for what must be in it first."""
        self.plane.api.create("/api/v1/namespaces", {"metadata": {"name": self.namespace}})

    def give_secrets(self, *names: str) -> None:
        """Make the secrets (default: all) that are not there: docs/gke.md has them made by hand before pods can start."""
        for name in names or _SECRETS:
            if self.plane.api.find(self.path("secrets", name)) is None:
                self.plane.api.create(self.path("secrets"), {"metadata": {"name": name}, "stringData": _SECRETS[name]})

    def until_ready(self) -> list[Json]:
        """Five pods, all Ready; the weights may still wait for their token."""
        self.give_secrets("api-keys")

        def five() -> list[Json] | None:
            pods = self.pods()
            return pods if len(pods) == 5 and all(map(is_ready, pods)) else None

        return list(wait_for(five, _READY_S, lambda: str([pod["status"] for pod in self.pods()])))

    def pods(self, labels: str = "ray.io/is-ray-node=yes") -> list[Json]:
        return pods(self.plane.api, self.namespace, labels)

    def hosts(self) -> list[Json]:
        return self.pods(HOSTS)

    def path(self, plural: str, name: str = "", group: str = "") -> str:
        """The path of objects in the namespace; `group` with its version, such as ray.io/v1."""
        root = f"/apis/{group}" if group else "/api/v1"
        return f"{root}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    @property
    def cluster_path(self) -> str:
        return self.path("rayclusters", self.name, "ray.io/v1")

    def cluster(self) -> Json:
        return self.plane.api.get(self.cluster_path)


@contextmanager
def made_deployment(plane: ControlPlane, directory: Path, namespace: str) -> Iterator[Deployment]:
    """A deployment with the example's spec; `apply` makes the namespace, and it is gone at the end whatever the test did."""
    deployment = Deployment(plane, directory, namespace, plane.kubeconfig)
    deployment.change()
    try:
        yield deployment
    finally:
        cleared(plane, namespace)

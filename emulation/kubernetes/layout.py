"""The places of a control plane: its ports, and the files in its own directory."""

from dataclasses import dataclass
from pathlib import Path

from emulation.kubernetes.pki import Authority, Pair


@dataclass(frozen=True)
class Ports:
    """Ports of loopback. `api` is the one that people and clients use."""

    api: int
    etcd: int
    etcd_peer: int
    controllers: int
    scheduler: int
    operator: int


@dataclass(frozen=True)
class Layout:
    """Paths in a control plane's own directory."""

    directory: Path

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.directory / "admin.kubeconfig"

    @property
    def egress_socket(self) -> Path:
        """The socket through which the API server dials pods and kubelets; whoever emulates the nodes listens there."""
        return self.directory / "egress.sock"

    @property
    def cluster_authority(self) -> Authority:
        """Signs users and the cluster's servers."""
        return Authority(self.directory / "pki", "cluster-ca")

    @property
    def admin(self) -> Pair:
        return self._pair("admin")

    @property
    def serving(self) -> Pair:
        """Certificate for everything that serves on loopback."""
        return self._pair("serving")

    @property
    def parts(self) -> Path:
        """What the supervisor is to run."""
        return self.directory / "parts.json"

    @property
    def running(self) -> Path:
        """Process ids by the parts' names, kept by the supervisor."""
        return self.directory / "running.json"

    @property
    def installed(self) -> Path:
        """A file that is made once the API server has what the other parts need."""
        return self.directory / "installed"

    def log(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"

    def _pair(self, name: str) -> Pair:
        return Pair(self.directory / "pki" / f"{name}.crt", self.directory / "pki" / f"{name}.key")

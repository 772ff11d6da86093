"""Build the control plane's programs from Go modules into the cache: once per set of pinned versions, whole or not at all."""

import fcntl
import hashlib
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from apps.common.errors import OperationError, UserError
from apps.common.settings import cache_root, inherited_environment, kubebuilder_assets

MODULE = Path(__file__).parent
_KUBERNETES = "k8s.io/kubernetes"
_OPERATOR = "github.com/ray-project/kuberay/ray-operator"
_ETCD = "go.etcd.io/etcd/server/v3"
_GATEWAY = "sigs.k8s.io/gateway-api"
_TYPES = tuple(f"config/crd/standard/gateway.networking.k8s.io_{kind}.yaml" for kind in ("gateways", "httproutes"))
_PACKAGES = {
    "etcd": _ETCD,
    "kube-apiserver": f"{_KUBERNETES}/cmd/kube-apiserver",
    "kube-controller-manager": f"{_KUBERNETES}/cmd/kube-controller-manager",
    "kube-scheduler": f"{_KUBERNETES}/cmd/kube-scheduler",
    "kubectl": f"{_KUBERNETES}/cmd/kubectl",
    "ray-operator": _OPERATOR,
    "nodes": "controlplane/nodes",
}
_ASSETS = ("etcd", "kube-apiserver", "kubectl")  # what kubebuilder's own directory of programs holds
_NEEDED_DISK_BYTES = 4 * 1024**3  # 2.1 GiB of Go's caches, 0.4 GiB of programs, and what the linker needs meanwhile
_POLL_S = 0.5

Report = Callable[[str], None]


@dataclass(frozen=True)
class Programs:
    """Paths of everything that a control plane runs from."""

    directory: Path
    """Built programs, and of the operator's module `crd/` and `rbac/role.yaml`."""
    assets: Path | None
    """kubebuilder's directory, whose programs win."""

    def path(self, name: str) -> Path:
        return (self.assets if self.assets and name in _ASSETS else self.directory) / name

    @property
    def is_built(self) -> bool:
        return (self.directory / "built.json").exists()


def programs() -> Programs:
    """The programs of the versions in go.mod; they may not be built yet.

    Raises:
        UserError: KUBEBUILDER_ASSETS is set, and lacks a program.
    """
    assets = kubebuilder_assets()
    if assets and (lacking := [name for name in _ASSETS if not (assets / name).is_file()]):
        raise UserError(f"KUBEBUILDER_ASSETS={assets}: {', '.join(lacking)} missing there: correct it, or unset it")
    sources = [MODULE / "go.mod", MODULE / "go.sum", *sorted(MODULE.glob("nodes/*.go"))]
    recipe = "\n".join([*_wanted(assets), _link_flags(), *_TYPES]).encode()
    digest = hashlib.sha256(b"".join([recipe, *(path.read_bytes() for path in sources)])).hexdigest()
    return Programs(cache_root() / "control-plane" / digest[:16], assets)


def build(report: Report) -> Programs:
    """Build what is missing; another build of the same user is waited for.

    Raises:
        UserError: Go is missing or too old, or the disk is too full.
        OperationError: Go could not build, with its own message.
    """
    wanted = programs()
    if wanted.is_built:
        return wanted
    go = _find_go()
    root = wanted.directory.parent
    root.mkdir(parents=True, exist_ok=True)
    with _only_one(root / "lock", report):
        if not wanted.is_built:
            _check_disk(root)
            for leftover in root.glob("*.part"):  # of builds that were killed: whoever lives would hold the lock
                shutil.rmtree(leftover)
            _build_into(wanted, go, report)
    return wanted


def versions() -> dict[str, str]:
    """Versions of Kubernetes, etcd and the KubeRay operator, from go.mod."""
    return {"kubernetes": _version(_KUBERNETES), "etcd": _version(_ETCD), "kuberay": _version(_OPERATOR)}


def _build_into(wanted: Programs, go: str, report: Report) -> None:
    started = time.monotonic()
    part = Path(tempfile.mkdtemp(prefix=f"{wanted.directory.name}-", suffix=".part", dir=wanted.directory.parent))
    packages = _wanted(wanted.assets)
    _compile(go, [f"-o={part}/", *packages.values()], report)
    if "etcd" in packages:
        (part / "server").rename(part / "etcd")
    config = Path(_go(go, "list", "-m", "-f", "{{.Dir}}", _OPERATOR)) / "config"
    shutil.copytree(config / "crd" / "bases", part / "crd", copy_function=shutil.copyfile)
    gateway = Path(_go(go, "list", "-m", "-f", "{{.Dir}}", _GATEWAY))
    for path in _TYPES:
        shutil.copyfile(gateway / path, part / "crd" / Path(path).name)
    (part / "rbac").mkdir()
    shutil.copyfile(config / "rbac" / "role.yaml", part / "rbac" / "role.yaml")
    built = {"versions": versions(), "go": _go(go, "env", "GOVERSION"), "seconds": round(time.monotonic() - started)}
    (part / "built.json").write_text(json.dumps(built))
    part.rename(wanted.directory)  # atomic: from here on it is there, and whole


def _compile(go: str, arguments: list[str], report: Report) -> None:
    command = [go, "build", "-v", "-trimpath", "-buildvcs=false", f"-ldflags={_link_flags()}", *arguments]
    with tempfile.TemporaryFile("w+") as output:
        # -v names each package once it is compiled; a download has no sign of life
        process = subprocess.Popen(command, cwd=MODULE, env=_environment(), stdout=output, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                report(
                    f"building the control plane, once: over {len(_lines(output)) // 100 * 100} of some 1,800 packages compiled"
                )
                time.sleep(_POLL_S)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            raise OperationError("Go could not build the control plane:\n" + "\n".join(_lines(output)[-15:]))


def _lines(output: TextIO) -> list[str]:
    output.seek(0)
    return output.read().splitlines()


def _wanted(assets: Path | None) -> dict[str, str]:
    return {name: package for name, package in _PACKAGES.items() if not (assets and name in _ASSETS)}


def _link_flags() -> str:
    """Small programs, and the version that `kubectl version` shows: without it there is a placeholder."""
    version = _version(_KUBERNETES)
    major, minor, *_ = version.removeprefix("v").split(".")
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    places = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(["-s -w", *(f"-X={place}.{name}={value}" for place in places for name, value in values.items())])


def _version(module: str) -> str:
    match = re.search(rf"^\s+{re.escape(module)} (v\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    assert match, f"go.mod does not require {module}"
    return match[1]


def _find_go() -> str:
    go = shutil.which("go")
    needed = re.findall(r"^go (\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE)[0]
    install = f"install Go {needed} or newer (https://go.dev/doc/install, or your system's package golang)"
    if go is None:
        raise UserError(f"Go is needed to build the control plane, and there is no `go` on PATH: {install}")
    version = _go(go, "env", "GOVERSION")
    if [int(n) for n in re.findall(r"\d+", version)] < [int(n) for n in needed.split(".")]:
        raise UserError(f"{go} is {version}, which is too old: {install}")
    return go


def _go(go: str, *arguments: str) -> str:
    done = subprocess.run([go, *arguments], cwd=MODULE, env=_environment(), capture_output=True, text=True)
    if done.returncode:
        raise OperationError(f"`go {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done.stdout.strip()


def _environment() -> dict[str, str]:
    return {**inherited_environment(), "CGO_ENABLED": "0"}


def _check_disk(directory: Path) -> None:
    free = shutil.disk_usage(directory).free
    if free < _NEEDED_DISK_BYTES:
        raise UserError(
            f"{directory}: {free / 1024**3:.1f} GiB of disk free, building the control plane needs "
            f"{_NEEDED_DISK_BYTES / 1024**3:.0f} GiB: free some, or set XDG_CACHE_HOME to another disk"
        )


@contextmanager
def _only_one(path: Path, report: Report) -> Iterator[None]:
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                report("waiting for another build of the control plane")
                time.sleep(_POLL_S)
        yield

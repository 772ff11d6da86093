"""`build`, `up`, `down`, `status` and `user`: the order of things, and what a person reads on the terminal."""

import argparse
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from apps.common.command_line import reports_errors
from apps.common.errors import OperationError, UserError
from apps.common.progress_line import Progress
from apps.slice.topology import slice_of
from emulation.hosts.preflight import check_port, free_ports
from emulation.kubernetes import build, record
from emulation.kubernetes.client import answers, write_kubeconfig
from emulation.kubernetes.install import install
from emulation.kubernetes.layout import Layout, Ports
from emulation.kubernetes.parts import lay_out
from emulation.kubernetes.record import PlaneRecord

_START_DEADLINE_S = 120
_STOP_DEADLINE_S = 15
_POLL_S = 0.1
_SHORT_TEMP_ROOT = Path("/tmp")  # noqa: S108 - a unix socket's path must stay under 107 bytes; the directory made in it is private


@reports_errors()
def run(options: argparse.Namespace) -> int:
    """Run one command; exit code: 0 done, 1 failed, 2 the input or the machine does not allow it."""
    commands = {"build": _build, "up": _up, "down": _down, "status": _status, "user": _user}
    return commands[options.command](options)


def _build(_: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    with Progress() as progress:
        built = build.build(progress.report)
    print(built.directory)
    return 0


def _up(options: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    with record.exclusive():
        if running := record.read():
            print(f"It is up already.\n{_summary(running)}")
            return 0
        if options.port:
            check_port(options.port, "--port")
        started = time.monotonic()
        with Progress() as progress:
            plane, supervisor = _start(options, progress)
        print(f"Ready after {time.monotonic() - started:.0f} s.\n{_summary(plane)}", flush=True)
    return 0 if options.detach else _stay(supervisor)


def _start(options: argparse.Namespace, progress: Progress) -> "tuple[PlaneRecord, subprocess.Popen[bytes]]":
    shape = slice_of("v6e", options.topology)  # a wrong one is refused before anything is built
    programs = build.build(progress.report)
    first, *others = free_ports(6)
    ports = Ports(options.port or first, *others)
    layout = Layout(Path(tempfile.mkdtemp(prefix="rts-plane-", dir=_SHORT_TEMP_ROOT)))
    belongs_to = [str(options.with_process)] if options.with_process else []
    try:
        lay_out(layout, programs, ports, None if options.nodes == "none" else (options.nodes, shape.topology))
        with layout.log("supervisor").open("wb") as log:
            supervisor = subprocess.Popen(
                [sys.executable, "-m", "emulation.kubernetes", "supervise", str(layout.directory), *belongs_to],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=build.MODULE.parents[1],
            )
    except BaseException:
        shutil.rmtree(layout.directory, ignore_errors=True)
        raise
    plane = PlaneRecord(str(layout.directory), supervisor.pid, ports.api)
    try:
        record.write(plane)
        _make_ready(layout, programs, ports, supervisor, progress)
    except OperationError as error:
        _end(plane, keep_logs=True)
        raise OperationError(f"{error}\nNothing is left running; the logs are in {layout.directory / 'logs'}") from error
    except BaseException:
        _end(plane)
        raise
    return plane, supervisor


def _make_ready(
    layout: Layout, programs: build.Programs, ports: Ports, supervisor: "subprocess.Popen[bytes]", progress: Progress
) -> None:
    deadline = time.monotonic() + _START_DEADLINE_S
    authority = layout.cluster_authority.pair.certificate

    def wait_for(what: str, port: int, path: str, *, tls: bool = True) -> None:
        progress.report(f"starting {what}")
        while not answers(port, path, authority if tls else None, layout.admin if tls else None):
            if supervisor.poll() is not None or time.monotonic() > deadline:
                raise OperationError(f"{what} did not become ready: {_last_words(layout)}")
            time.sleep(_POLL_S)

    wait_for("etcd and the API server", ports.api, "/readyz")
    progress.report("installing KubeRay's definitions")
    install(layout, programs)
    for kind in ("ray.io/v1/rayclusters", "ray.io/v1/rayservices", "ray.io/v1/rayjobs"):
        wait_for(f"the API server with {kind}", ports.api, f"/apis/{kind}?limit=1")
    layout.installed.touch()
    wait_for("the scheduler", ports.scheduler, "/readyz")
    wait_for("the KubeRay operator", ports.operator, "/readyz", tls=False)
    wait_for("the controllers", ports.api, "/api/v1/namespaces/default/serviceaccounts/default")


def _last_words(layout: Layout) -> str:
    lines = []
    for log in sorted((layout.directory / "logs").glob("*.log")):
        if text := log.read_text(errors="replace").strip():
            lines.append(f"\n  {log.stem}: {text.splitlines()[-1][:300]}")
    return "".join(lines) or "no output"


def _stay(supervisor: "subprocess.Popen[bytes]") -> int:
    print("Ctrl-C stops it.", flush=True)
    try:
        supervisor.wait()
        print("error: it ended by itself", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if plane := record.read():
            _end(plane)


def _down(_: argparse.Namespace) -> int:
    plane = record.read()
    if plane is None:
        print("nothing is running")
        return 0
    with record.exclusive():
        _end(plane)
    print("stopped")
    return 0


def _end(plane: PlaneRecord, *, keep_logs: bool = False) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        supervisor = psutil.Process(plane.pid)
        supervisor.terminate()
        try:
            supervisor.wait(_STOP_DEADLINE_S)
        except psutil.TimeoutExpired:
            supervisor.kill()  # its parts die with it
    record.remove()
    for path in Path(plane.directory).iterdir() if keep_logs else [Path(plane.directory)]:
        if path.name != "logs":
            shutil.rmtree(path, ignore_errors=True)


def _status(options: argparse.Namespace) -> int:
    plane, programs = record.read(), build.programs()
    seen = {"built": programs.is_built, "versions": build.versions(), "programs": str(programs.directory), "running": None}
    if plane:
        parts = {name: _memory(pid) for name, pid in json.loads(Layout(Path(plane.directory)).running.read_text()).items()}
        seen["running"] = {"kubeconfig": str(plane.kubeconfig), "port": plane.port, "pid": plane.pid, "memory_bytes": parts}
    print(json.dumps(seen, indent=2) if options.json else _describe(seen, plane))
    return 0


def _memory(pid: int) -> int | None:
    """Bytes of memory that no other process shares."""
    try:
        return int(psutil.Process(pid).memory_full_info().uss)
    except psutil.Error:
        return None


def _describe(seen: dict[str, object], plane: PlaneRecord | None) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in build.versions().items())
    lines = [f"{'built' if seen['built'] else 'not built'}: {versions}"]
    if plane is None:
        return "\n".join([*lines, "not running: scripts/control_plane.sh up"])
    pids = json.loads(Layout(Path(plane.directory)).running.read_text())
    for name, pid in pids.items():
        used = _memory(pid)
        lines.append(f"  {name:24} process {pid:7}  {'ended' if used is None else f'{used / 1024**2:4.0f} MiB'}")
    return "\n".join([*lines, _summary(plane)])


def _user(options: argparse.Namespace) -> int:
    plane = record.read()
    if plane is None:
        raise UserError("no control plane runs: start one with scripts/control_plane.sh up")
    print(kubeconfig_for(Layout(Path(plane.directory)), plane.port, options.name, options.group))
    return 0


def kubeconfig_for(layout: Layout, port: int, user: str, groups: Sequence[str] = ()) -> Path:
    """Write a kubeconfig that acts as a user with no rights but those that RBAC gives to its name and groups."""
    if not user or "/" in user:
        raise UserError(f"{user!r} is no user name: give for example anna")
    authority = layout.cluster_authority
    pair = authority.issue(f"user-{user}", user, groups)
    target = layout.directory / f"user-{user}.kubeconfig"
    return write_kubeconfig(target, f"https://127.0.0.1:{port}", authority.pair.certificate, pair)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _summary(plane: PlaneRecord) -> str:
    kubectl = build.programs().path("kubectl")
    return f"""\
  API server  https://127.0.0.1:{plane.port}
  export KUBECONFIG={plane.kubeconfig}
then, for example:
  scripts/cluster.py apply kuberay/examples/gemma-v6e-4x4.yaml
  {kubectl} --namespace gemma get pods
  scripts/control_plane.sh down"""

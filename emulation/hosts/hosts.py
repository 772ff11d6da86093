"""Emulated hosts of TPU slices: Ray nodes on this machine that claim to have chips, so that Ray's own placement works on them.

Ray reads a node's chips from its resources, and its slice, topology and worker id from the environment that GKE sets.
"""

import subprocess
import time
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

import psutil

from apps.common.errors import OperationError, UserError
from apps.slice.topology import Slice, slice_of
from emulation.hosts import processes, record, tpu_engine
from emulation.hosts.head import HEAD_LOG, own_python, stack_environment, start_head_on
from emulation.hosts.options import HEAD
from emulation.hosts.preflight import LOOPBACK, free_ports
from emulation.hosts.record import StackRecord

EMULATED = slice_of("v6e", "4x4")
NOTICE_S = 20
"""Seconds that a host has left after SIGTERM: a spot machine's 30 s, less what GKE needs of them."""
_RAYLET = "raylet"
_LOGICAL_CPUS = 4
_START_S = 60
_KILL_S = 10
_HEAD_AWAY_S = 600
_MAX_STARTS = 4
_STARTED = b"Ray runtime started"
# The switch that keeps Ray on loopback also makes `ray start` refuse to join a cluster; only that command gets another value.
_RAY_START = """
from types import SimpleNamespace
from ray._private import ray_constants
from ray.scripts import scripts
scripts.ray_constants = SimpleNamespace(**{**vars(ray_constants), "ENABLE_RAY_CLUSTER": True})
scripts.main()
"""
_OBJECT_STORE_BYTES = 80 * 1024**2  # Ray's minimum


def start_slices(stack: StackRecord, slices: int, absent: Collection[str]) -> None:
    """Start every host of `slice-a`, `slice-b`, ... but those in `absent`; they join some seconds later."""
    _wait_for(lambda: _sockets(Path(stack.temp_dir)) > 0, "Ray's head has no raylet")
    for slice_name in [f"slice-{letter}" for letter in "abcd"[:slices]]:
        for worker_id in range(EMULATED.hosts):
            if (name := f"{slice_name}/{worker_id}") not in absent:
                _start(stack, name)


def restart_exited(port: int, starts: Counter[str]) -> None:
    """Restart hosts whose `ray start` has exited by itself, as a kubelet would; `starts` counts the restarts.

    Ray gives up a node whose parts take longer than 15 s to start, as they may on a busy machine.

    Raises:
        OperationError: one exited too often; the message has its last line of output.
    """
    stack = record.read_record(port)
    for name, session in (stack.hosts if stack else {}).items():
        if stack and not _runs(session):
            starts[name] += 1
            if starts[name] == _MAX_STARTS:
                lines = _log(Path(stack.temp_dir), name).read_text(errors="replace").strip().splitlines()
                raise OperationError(f"host {name} exited {_MAX_STARTS} times: {lines[-1] if lines else 'no output'}")
            _start(stack, name)


def change(port: int, name: str, *, start: bool) -> int:
    """Start a host (or the head) of a running stack, or kill it as a failing machine dies: all its processes at once.

    Raises:
        UserError: there is no such stack, the host runs already (or does not run), or the head's state is gone with it.
    """
    stack = record.read_record(port)
    if stack is None or not stack.hosts:
        raise UserError(f"no emulated slice runs on port {port}: start one with scripts/emulated_slice.sh --port {port}")
    session = stack.session_id if name == HEAD else stack.hosts.get(name)
    living = processes.find([session], Path(stack.temp_dir)) if session else []
    if start == any(process.name() == _RAYLET for process in living):
        raise UserError(f"host {name} {'is running already' if start else 'is not running'}: nothing was changed")
    if start and name == HEAD and not stack.redis:
        raise UserError(
            "the head's state was lost with it, because it was started without --redis: start the whole stack again"
        )
    _kill(living)  # a drained host still has its `ray start`, without a node
    if start:
        _start_head(stack) if name == HEAD else _start(stack, name)
    print(f"host {name} {'joins' if start else 'is dead'}")
    return 0


def head_runs(stack: StackRecord) -> bool:
    """True while the head's `ray start` runs; what it has started may outlive it for a while."""
    return stack.session_id in {process.pid for process in processes.find([stack.session_id], Path(stack.temp_dir))}


def _start_head(stack: StackRecord) -> None:
    """Start the head where the old one was: it finds its state, the hosts find it, and Serve's controller starts on it."""
    if not any(_head_starts(stack) for _ in range(_MAX_STARTS)):
        raise OperationError(
            f"Ray's head exited {_MAX_STARTS} times while it started; its output is in {stack.temp_dir}/{HEAD_LOG}"
        )


def _head_starts(stack: StackRecord) -> bool:
    temp_dir = Path(stack.temp_dir)
    # From this file and the hosts, Ray would conclude that the old head still runs.
    (temp_dir / "ray" / "ray_current_cluster").unlink(missing_ok=True)
    logged = (temp_dir / HEAD_LOG).stat().st_size
    head = start_head_on(stack.first_port, temp_dir, stack.dashboard_port, classic=stack.classic, redis=stack.redis)
    record.set_head(stack.port, head.process.pid)
    poll = head.process.poll
    _wait_for(lambda: poll() is not None or _STARTED in head.log.read_bytes()[logged:], "Ray's head does not start")
    return poll() is None


def _start(stack: StackRecord, name: str) -> None:
    """Run `ray start --block` in a session of its own, which the record keeps."""
    slice_name, _, worker_id = name.partition("/")
    temp_dir = Path(stack.temp_dir)
    environment = stack_environment(temp_dir, stack.first_port, classic=stack.classic)
    sockets = _sockets(temp_dir)
    with _log(temp_dir, name).open("ab") as log:
        process = subprocess.Popen(
            _start_command(own_python(temp_dir), stack.first_port),
            env={
                **environment,
                **_tpu_environment(EMULATED, slice_name, worker_id),
                **tpu_engine.host_environment(temp_dir, EMULATED, environment),
                **_reconnect_timeout(stack),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=temp_dir,
        )
    record.add_host(stack.port, name, process.pid)
    _wait_for(lambda: _sockets(temp_dir) > sockets or process.poll() is not None, f"host {name} has no raylet")


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _log(temp_dir: Path, name: str) -> Path:
    return temp_dir / f"{name.replace('/', '-')}.log"


def _start_command(python: Path, gcs_port: int) -> list[str]:
    http, grpc, metrics = free_ports(3)  # Ray's defaults are the same on every node, which on one machine they cannot be
    return [
        str(python),
        "-c",
        _RAY_START,
        "start",
        "--block",
        f"--address={LOOPBACK}:{gcs_port}",
        f"--node-ip-address={LOOPBACK}",
        "--disable-usage-stats",
        "--include-log-monitor=false",
        "--min-worker-port=0",
        "--max-worker-port=0",
        f"--dashboard-agent-listen-port={http}",
        f"--dashboard-agent-grpc-port={grpc}",
        f"--metrics-export-port={metrics}",
        f"--num-cpus={_LOGICAL_CPUS}",
        f'--resources={{"TPU": {EMULATED.chips_per_host}}}',
        f"--object-store-memory={_OBJECT_STORE_BYTES}",
    ]


def _tpu_environment(shape: Slice, slice_name: str, worker_id: str) -> dict[str, str]:
    """Variables that a TPU pod has; without TPU_NAME Ray would ask Google's metadata server, without a deadline."""
    return {
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(NOTICE_S),
        "TPU_NAME": slice_name,
        "TPU_WORKER_ID": worker_id,
        "TPU_ACCELERATOR_TYPE": shape.pod_type,
        "TPU_TOPOLOGY": shape.topology,
    }


def _reconnect_timeout(stack: StackRecord) -> dict[str, str]:
    """Variable for how long a host outlives the head, by default 60 s. KubeRay sets it too where there is a Redis."""
    return {"RAY_gcs_rpc_server_reconnect_timeout_s": str(_HEAD_AWAY_S)} if stack.redis else {}


def _kill(living: list[psutil.Process]) -> None:
    processes.send(psutil.Process.kill, living)
    psutil.wait_procs(living, timeout=_KILL_S)


def _sockets(temp_dir: Path) -> int:
    """Count raylets with a bound socket. Ray numbers them by what is there: of two hosts that start at once, one would fail."""
    return len(list((temp_dir / "ray" / "session_latest" / "sockets").glob("raylet*")))


def _wait_for(condition: Callable[[], bool], failure: str) -> None:
    end = time.monotonic() + _START_S
    while not condition():
        if time.monotonic() > end:
            raise OperationError(f"{failure} after {_START_S} s")
        time.sleep(0.1)

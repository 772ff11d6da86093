"""Check that this machine is fit to serve and that the ports are free, before anything is fetched or started.

One clear line each, and the standard library only: the first check is that of a bare Python.
"""

import ctypes
import platform
import random
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from apps.common.errors import OperationError, UserError
from emulation.hosts import cpu, machine
from emulation.hosts.options import UpOptions

LOOPBACK = "127.0.0.1"
MAX_TEMP_ROOT = 12
_PORTS = range(20_000, 32_000)
_NEEDED_MEMORY_GIB = {
    "sim": 4,  # five nodes and their workers, without a model
    "cpu": 7,
    "tpu": 12,  # the engine in five processes
}
_CORES = 2
_PROCESSORS = ("x86_64", "aarch64")
_ELSEWHERE = "docs/laptop.md#other-systems says what works without"
_NEEDED_DISK_BYTES = 1 * 1024**3  # Ray's logs and object store


def temp_root() -> Path:
    """Directory of the stacks' own: the system's place for temporary files (TMPDIR), if sockets fit below it, else /tmp.

    The longest socket path is HAProxy's, 95 characters below it in a directory by Ray's node id; the system allows 107.
    """
    wanted = Path(tempfile.gettempdir())
    return wanted if len(str(wanted)) <= MAX_TEMP_ROOT else Path("/tmp")  # noqa: S108 - what is created in it is private


def check_start(options: UpOptions) -> None:
    """Raise `UserError` for what would fail much later with an obscure message."""
    engine = options.engine or "cpu"
    _check_platform(platform.system(), platform.machine())
    _check_memory(machine.available_bytes(), _NEEDED_MEMORY_GIB[engine] * 1024**3)
    _check_disk(root := temp_root(), shutil.disk_usage(root).free)
    if engine == "cpu":
        _check_cpu(platform.machine(), cpu.flags())
        _check_numa()
    check_port(options.port, "--port")
    check_port(options.dashboard_port, "--dashboard-port")


def warn_of_few_cores() -> None:
    """Say what a machine that is smaller than meant is like."""
    if (cores := machine.cores()) < _CORES:
        print(
            f"warning: {cores:g} core where {_CORES} are meant: the start takes minutes, and answers are slow", file=sys.stderr
        )


def check_port(port: int, option: str) -> None:
    """Raise `UserError`, naming the owner, if the port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            owner = _owner_of(port)
            raise UserError(
                f"port {port} is taken{owner} ({error.strerror}): stop it, or choose another port with {option}"
            ) from error


def free_ports(count: int, *, avoid: Iterable[int] = ()) -> list[int]:
    """`count` consecutive ports that are free now, none of `avoid`.

    They are below the range that systems hand out by themselves: Ray and every client take ports from that range at any moment,
    so one that is free now may not be when its server starts.
    """
    import psutil  # here and below: a bare Python lacks it

    taken = {*avoid, *(c.laddr[1] for c in psutil.net_connections("tcp") if c.laddr)}
    blocks = list(range(_PORTS.start, _PORTS.stop - count, count))
    random.shuffle(blocks)
    for first in blocks:
        ports = range(first, first + count)
        if not taken & set(ports):
            return list(ports)
    raise OperationError(f"no {count} consecutive free ports between {_PORTS.start} and {_PORTS.stop}")


def _check_platform(system: str, processor: str) -> None:
    if system != "Linux":
        way = "WSL 2" if system != "Darwin" else "a Linux virtual machine or a container"
        raise UserError(f"{system} is not Linux, for which vLLM and HAProxy are built: use {way}; {_ELSEWHERE}")
    if processor not in _PROCESSORS:
        raise UserError(f"there is no vLLM for a {processor} processor: use {' or '.join(_PROCESSORS)}; {_ELSEWHERE}")


def _check_memory(available: int | None, needed: int) -> None:
    if available is not None and available < needed:
        raise UserError(
            f"{available / 1024**3:.1f} GiB of memory are available, but the stack needs {needed / 1024**3:.0f} GiB: "
            "close other programs, raise the container's limit, or use a larger machine"
        )


def _check_disk(directory: Path, free: int) -> None:
    if free < _NEEDED_DISK_BYTES:
        raise UserError(
            f"{directory}: {free / 1024**3:.1f} GiB of disk free, but Ray's logs need {_NEEDED_DISK_BYTES / 1024**3:.0f} GiB: "
            f"free some, or set TMPDIR to a directory on another disk, with at most {MAX_TEMP_ROOT} characters"
        )


def _check_cpu(machine: str, flags: set[str]) -> None:
    if machine == "x86_64" and not flags & {"avx2", "avx512f"}:
        raise UserError("this CPU has neither AVX2 nor AVX-512, which vLLM's CPU build needs: use another machine")


def _check_numa() -> None:
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        raise UserError("libnuma.so.1 is missing, which vLLM's CPU build loads: on Debian, apt-get install libnuma1") from None


def _owner_of(port: int) -> str:
    try:
        import psutil
    except ImportError:
        return ""
    try:
        listening = (c for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr and c.pid)
        pid = next(c.pid for c in listening if c.laddr[1:2] == (port,))
        return f" by {psutil.Process(pid).name()} (process {pid})"
    except (psutil.Error, StopIteration):
        return ""

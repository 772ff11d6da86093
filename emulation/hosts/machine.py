"""Memory and cores that this process may use: the machine's, or less where it is in a container. Standard library only."""

import os
from collections.abc import Iterator
from pathlib import Path

_V1_LIMIT, _V1_USAGE, _V1_CACHE = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
_V2_LIMIT, _V2_USAGE, _V2_CACHE = "memory.max", "memory.current", "inactive_file"


def available_bytes(root: Path = Path("/")) -> int | None:
    """Memory that programs can still take, by the machine and by every control group; None where the system does not say."""
    meminfo = _table(root / "proc/meminfo")
    available = [int(meminfo["MemAvailable:"]) * 1024] if "MemAvailable:" in meminfo else []
    for group in _groups(root, "memory"):
        for limit, usage, cache in ((_V2_LIMIT, _V2_USAGE, _V2_CACHE), (_V1_LIMIT, _V1_USAGE, _V1_CACHE)):
            if (limited := _number(group / limit)) is not None:
                reclaimable = int(_table(group / "memory.stat").get(cache, 0))
                available.append(limited - (_number(group / usage) or 0) + reclaimable)
    return min(available, default=None)


def cores(root: Path = Path("/")) -> float:
    """Cores that this process may run on, by its affinity and by every control group's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    shares = [float(len(affinity(0)) if affinity else os.cpu_count() or 1)]
    for group in _groups(root, "cpu"):
        quota, _, period = _text(group / "cpu.max").partition(" ")  # version 2, as in "200000 100000"
        quota, period = quota or _text(group / "cpu.cfs_quota_us"), period or _text(group / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():  # else "max", or -1
            shares.append(int(quota) / int(period))
    return min(shares)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Directories of this process's control groups, from its own to the outermost, in both versions."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        own = mount / path.lstrip("/")
        yield from (group for group in (own, *own.parents) if group.is_relative_to(mount) and group.is_dir())


def _table(file: Path) -> dict[str, str]:
    return {words[0]: words[1] for line in _text(file).splitlines() if len(words := line.split()) > 1}


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text.isdigit() else None


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""

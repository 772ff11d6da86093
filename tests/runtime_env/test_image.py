"""The image, as far as it can be tried without building it: its file, its requirements for its Python, its own checks."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from runtime_env import image
from tests.kuberay.specs import ROOT, spec
from tests.test_layering import imports

DOCKERFILE = ROOT / "runtime_env" / "Dockerfile"
PYTHON = "3.12"  # of the base image


def test_the_dockerfile_has_no_known_fault() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, timeout=60)
    assert done.stdout == ""
    assert done.returncode == 0


def test_it_ends_as_another_user_and_takes_nothing_from_a_moving_place() -> None:
    text = DOCKERFILE.read_text()
    assert re.findall(r"^USER (.*)", text, re.MULTILINE)[-1] == "1000:1000"
    assert not re.search(
        r"https?://|:latest|\bmain\b", "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    )


def test_base_and_pins_are_of_one_release() -> None:
    release = image.pinned()["vllm-tpu"]
    assert f"ARG BASE=vllm/vllm-tpu:v{release}\n" in DOCKERFILE.read_text()
    build = yaml.safe_load((ROOT / "runtime_env" / "cloudbuild.yaml").read_text())
    assert build["substitutions"]["_BASE"] == f"vllm/vllm-tpu:v{release}"
    assert image.pinned()["tpu-inference"] == release


def test_every_requirement_can_be_had_for_the_images_python(tmp_path: Path) -> None:
    wanted = tmp_path / "requirements.txt"
    wanted.write_text("\n".join(image.to_install()))
    uv = str(Path(sys.executable).parent / "uv")
    options = ["--no-deps", f"--python-version={PYTHON}", "--python-platform=x86_64-manylinux_2_31", "--only-binary=:all:"]
    command = [uv, "pip", "install", "--dry-run", *options, f"--target={tmp_path / 'image'}", "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"+ ray=={image.pinned()['ray']}" in done.stderr
    assert "vllm-tpu" not in done.stderr


def test_a_wrong_environment_fails_the_build_with_every_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert image.main(["check"]) == 1  # this one: a laptop's vLLM, and no haproxy on PATH
    errors = capsys.readouterr().err
    assert f"vLLM is None, but must be {image.pinned()['vllm-tpu'].rpartition('.')[0]}" in errors
    assert not re.search(r"ray is \d", errors)
    assert "apps.weights" not in errors


def test_the_pods_find_in_it_what_their_manifests_name(tmp_path: Path) -> None:
    text = DOCKERFILE.read_text()
    (user,) = re.findall(r"^USER (\d+):", text, re.MULTILINE)
    from kuberay.manifests import pods

    assert int(user) == pods.USER
    assert spec(tmp_path).image.count(":") == 1


def test_it_has_what_the_apps_import_and_no_more() -> None:
    sources = [
        ROOT / name for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE) for name in line.split()
    ]
    copied = {path for source in sources for path in ([source] if source.is_file() else source.rglob("*.py"))}
    modules = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in copied if path.suffix == ".py"}
    ours = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    wanted = {name.split(".")[0] for tree in modules.values() for name in imports(tree)} & ours
    assert {path.split("/")[0] for path in modules} == wanted | {"runtime_env"}
    assert {path for path in modules if path.startswith("runtime_env")} == {
        *("runtime_env/__init__.py", "runtime_env/image.py"),
        *(f"runtime_env/haproxy/{name}.py" for name in ("__init__", "__main__", "affinity", "config", "servers")),
    }


def test_a_pod_of_another_image_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    pins = image.pinned()
    assert image.main(["versions", f"ray=={pins['ray']}", f"vllm-tpu=={pins['vllm-tpu']}"]) == 0  # a laptop's vLLM will do
    assert image.main(["versions", "ray==2.55.0", "vllm-tpu==0.28.1", "gcsfs"]) == 2
    capsys.readouterr()
    assert image.main(["versions", "ray==2.55.0", "vllm-tpu==0.28.1"]) == 1
    errors = capsys.readouterr().err
    assert f"ray is {pins['ray']}, but must be 2.55.0" in errors
    assert "but must be 0.28: Ray's LLM library is made for it" in errors

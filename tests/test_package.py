"""The wheel has all that the checkout has, and its `rts` works where there is no checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts.rts import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("apps", "benchmarks", "emulation", "kuberay", "runtime_env", "scripts", "serve_configs")
HEAVY = {"gradio", "kubernetes", "matplotlib", "numpy", "ray", "torch", "vllm"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the wheel would put into site-packages."""
    uv = str(Path(sys.executable).parent / "uv")
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"  # a build leaves files behind
    ignored = shutil.ignore_patterns("__pycache__")
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=ignored)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    subprocess.run([uv, "build", "--wheel", "--quiet", "--out-dir", out, source], check=True, timeout=300)
    with zipfile.ZipFile(next(out.glob("*.whl"))) as wheel:
        wheel.extractall(out / "site")
    return out / "site"


def rts(installed: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-P", "-m", "scripts.rts", *words]
    return subprocess.run(command, cwd=installed.parent, env=environment, capture_output=True, text=True, timeout=60)


def test_it_has_every_file(installed: Path) -> None:
    kept = {path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file()}
    kept = {path for path in kept if "__pycache__" not in path.parts and (path.parts[0] != "scripts" or path.suffix == ".py")}
    assert {path for path in kept if not (installed / path).is_file()} == set()


def test_its_commands_work_from_anywhere(installed: Path) -> None:
    done = rts(installed, "validate", str(installed / "serve_configs" / "gemma.yaml"))
    assert done.returncode == 0, done.stderr
    assert "gemma-4" in rts(installed, "plan", "--model=gemma-4-31b", "--topology=4x4", "--json").stdout


def test_an_unknown_command_is_refused_with_those_that_are_known() -> None:
    done = subprocess.run([sys.executable, "-m", "scripts.rts", "srve"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, f"error: 'srve' is no command. One of: {', '.join(COMMANDS)}\n")


def test_without_a_command_it_lists_them(installed: Path) -> None:
    done = rts(installed)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"  {command} " in done.stdout for command in COMMANDS)


def test_completion_can_be_printed_from_anywhere(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts" / "rts.py"), "completion", "zsh"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--dry-run" in done.stdout


def test_completion_knows_commands_and_options(tmp_path: Path) -> None:
    script = tmp_path / "rts.bash"
    done = subprocess.run([sys.executable, "-m", "scripts.rts", "completion", "bash"], cwd=ROOT, capture_output=True, text=True)
    script.write_text(done.stdout)
    ask = 'source "$1"; COMP_WORDS=(rts "${@:2}"); COMP_CWORD=$(($# - 1)); _rts; echo "${COMPREPLY[@]}"'

    def completed(*words: str) -> list[str]:
        answer = subprocess.run(["bash", "-c", ask, "bash", script, *words], capture_output=True, text=True, check=True)
        return answer.stdout.split()

    assert completed("va") == ["validate"]
    assert completed("cluster", "un") == ["unpark"]
    assert "--dry-run" in completed("cluster", "--d")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_heavy_package(command: str) -> None:
    code = (
        "import atexit, sys; from scripts.rts import main;"
        f"atexit.register(lambda: print(sorted({HEAVY!r} & set(sys.modules)))); main([{command!r}, '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stderr

"""The scripts on machines that are not as they should be: what they need is missing, half there, or somebody else's."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from emulation.hosts import preflight

ROOT = Path(__file__).resolve().parents[3]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user, or limit itself")


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A checkout of its own that everybody can read, with a space in its path; its environment needs no package."""
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        copy = Path(parent) / "my project"
        for folder in ("apps", "emulation", "scripts"):
            shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*.go"))
        (copy / "runtime_env").mkdir()
        (copy / "runtime_env" / "requirements-cpu.txt").write_text("# nothing\n")
        yield copy


def run(command: Sequence[str | Path], **changes: str) -> "subprocess.CompletedProcess[str]":
    """A command, with variables changed or, where they are empty, taken away."""
    environment = {name: value for name, value in {**os.environ, **changes}.items() if value}
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=100)


def install(checkout: Path, **changes: str) -> "subprocess.CompletedProcess[str]":
    return run(["bash", "-euc", f'. "{checkout}/scripts/_environment.sh"; ensure_environment cpu'], **changes)


def refused(done: "subprocess.CompletedProcess[str]", why: str) -> None:
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert why in done.stderr


WITHOUT_VENV = f"""#!/bin/sh
[ "$1 $2" != "-m venv" ] || {{ mkdir "$4"; echo "ensurepip is not available"; exit 1; }}
exec {sys.executable} "$@"
"""


@pytest.fixture
def python_without_venv(tmp_path: Path) -> str:
    """A PATH like Debian's without python3-venv, and without uv."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "dirname", "readlink", "df", "awk", "cksum", "cat", "rm", "id", "stat", "mkdir"):
        (programs / name).symlink_to(str(shutil.which(name)))
    (programs / "python3").write_text(WITHOUT_VENV)
    (programs / "python3").chmod(0o755)
    return str(programs)


def test_without_the_venv_module_nothing_is_left_and_the_advice_is_right(checkout: Path, python_without_venv: str) -> None:
    for _ in range(2):  # the second run is no worse than the first
        done = install(checkout, PATH=python_without_venv)
        assert done.returncode == 2, done.stderr
        assert done.stderr.splitlines()[-1].endswith("apt-get install python3-venv), or uv, and run the command again")
        assert [path.name for path in checkout.glob(".venv*")] == []


@pytest.fixture
def uv_path() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def test_what_is_half_made_is_repaired_and_a_checkout_can_be_moved(checkout: Path, uv_path: str) -> None:
    environment = checkout / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to("/no/such/python")  # that was uninstalled
    (checkout / ".venv.new").mkdir()  # a run was killed
    done = install(checkout, PATH=uv_path)
    assert done.returncode == 0, done.stderr
    assert "once, some minutes" in done.stderr
    assert [path.name for path in checkout.glob(".venv*")] == [".venv"]
    moved = checkout.rename(checkout.with_name("moved"))
    assert install(moved, PATH=uv_path).stderr == ""  # there is nothing left to do
    asked = run([moved / ".venv" / "bin" / "python", "-c", "import sys; print(sys.prefix)"])
    assert asked.stdout == f"{moved / '.venv'}\n"
    shutil.rmtree(moved)


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (["stop_local.sh"], 0, "nothing is running\n"),
        (["observe_local.sh"], 2, "error: no local stack runs: start one with "),
        (["validate.py", "x.yaml"], 2, ".venv is not complete: scripts/serve_local.sh --detach installs it\n"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_half_made_environment_is_no_traceback(
    command: list[str], code: int, message: str, checkout: Path, tmp_path: Path
) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)
    bare = [sys.executable, "-S"] if command[0].endswith(".py") else []  # a Python without packages
    done = run([*bare, checkout / "scripts" / command[0], *command[1:]], XDG_STATE_HOME=str(tmp_path))
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert message in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("command", "variables", "message"),
    [
        (["stop_local.sh"], {"PYTHONHOME": "/nowhere"}, "nothing is running"),
        (["serve_local.sh", "--help"], {"PYTHONHOME": "/nowhere"}, "usage: scripts/serve_local.sh"),
        (["validate.py", str(ROOT / "serve_configs" / "local.yaml")], {}, "0 errors, 0 warnings"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_scripts_run_through_a_symlink_from_anywhere_whatever_python_is_set_up(
    command: list[str], variables: dict[str, str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "yaml.py").write_text("raise SystemExit('a stray yaml.py')\n")
    (tmp_path / command[0]).symlink_to(ROOT / "scripts" / command[0])
    stray = {"PYTHONPATH": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    done = run([tmp_path / command[0], *command[1:]], **stray, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert message in done.stdout


@needs_root
@pytest.mark.parametrize("home", ["/nonexistent", "/proc"])
def test_a_home_that_cannot_be_written_is_named_with_what_to_set(home: str, checkout: Path) -> None:
    command: list[str | Path] = [
        "setpriv",
        "--reuid=nobody",
        "--clear-groups",
        checkout / "scripts" / "serve_local.sh",
        "--port=30990",
    ]
    done = run(command, HOME=home, PATH="/usr/bin:/bin", XDG_STATE_HOME="", XDG_CACHE_HOME="")
    refused(done, home)
    assert "set XDG_STATE_HOME to a directory that you may write to" in done.stderr


@needs_root
def test_a_checkout_of_somebody_else_is_named(checkout: Path) -> None:
    installs = f'. "{checkout}/scripts/_environment.sh"; ensure_environment cpu'
    done = run(["setpriv", "--reuid=nobody", "--clear-groups", "bash", "-euc", installs], PATH="/usr/bin:/bin")
    refused(done, f"{checkout} belongs to root, and nobody cannot write to it")


@pytest.fixture
def two_gib() -> Iterator[Path]:
    """A control group with a limit of 2 GiB, in version 1 or 2."""
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(root) / f"rts-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / limit).exists():
                (group / limit).write_text(str(2 * 1024**3))
                yield group
                return
        finally:
            group.rmdir()
    pytest.skip("no control group can be made here")


@needs_root
def test_a_containers_memory_is_checked_before_anything_is_fetched(two_gib: Path, checkout: Path, tmp_path: Path) -> None:
    port, dashboard_port = preflight.free_ports(2)
    serve = f'"{checkout}/scripts/serve_local.sh" --port={port} --dashboard-port={dashboard_port}'
    done = run(["bash", "-c", f"echo $$ > {two_gib}/cgroup.procs; exec {serve}"], XDG_STATE_HOME=str(tmp_path))
    refused(done, "GiB of memory are available, but the stack needs 7 GiB")
    assert not (checkout / ".venv").exists()

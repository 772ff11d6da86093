"""scripts/control_plane.sh as people use it: start, try, stop; and its messages where something is missing."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from emulation.kubernetes.nodes.api import Api, wait_for
from tests.kuberay.namespaces import condition
from tests.kuberay.plane import ROOT


class Person:
    """Types commands, with a state directory of their own."""

    def __init__(self, state: Path) -> None:
        self.environment = {**os.environ, "XDG_STATE_HOME": str(state)}

    def type(self, *words: str, **more: str) -> "subprocess.CompletedProcess[str]":
        command = [str(ROOT / words[0]), *words[1:]]
        return subprocess.run(command, env={**self.environment, **more}, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    typing = Person(tmp_path / "state")
    yield typing
    typing.type("scripts/control_plane.sh", "down")


@pytest.mark.full
@pytest.mark.usefixtures("control_plane")  # which has built the programs
def test_up_try_it_and_down(person: Person) -> None:
    up = person.type("scripts/control_plane.sh", "up", "--detach")
    assert up.returncode == 0, up.stderr
    line = re.search(r"export KUBECONFIG=(\S+)", up.stdout)
    assert line
    environment = {"KUBECONFIG": line[1]}
    assert "It is up already" in person.type("scripts/control_plane.sh", "up", "--detach").stdout
    api, spec = Api(Path(line[1])), "kuberay/examples/gemma-v6e-4x4.yaml"
    assert person.type("scripts/cluster.py", "apply", spec, "--part=platform", **environment).returncode == 0
    for name in ("api-keys", "hub-token"):
        api.create("/api/v1/namespaces/gemma/secrets", {"metadata": {"name": name}})
    applied = person.type("scripts/cluster.py", "apply", spec, **environment)
    assert applied.returncode == 0, applied.stderr
    pods = "/api/v1/namespaces/gemma/pods"
    wait_for(lambda: [condition(pod, "Ready").get("status") for pod in api.items(pods)].count("True") == 5, 60, "no five pods")
    running = json.loads(person.type("scripts/control_plane.sh", "status", "--json").stdout)["running"]
    assert set(running["memory_bytes"]) >= {"etcd", "kube-apiserver", "kube-scheduler", "ray-operator", "nodes"}

    scheduler = json.loads((Path(line[1]).parent / "running.json").read_text())["kube-scheduler"]
    psutil.Process(scheduler).kill()
    wait_for(lambda: json.loads((Path(line[1]).parent / "running.json").read_text())["kube-scheduler"] != scheduler, 20, "gone")

    kubeconfig = person.type("scripts/control_plane.sh", "user", "anna").stdout.strip()
    assert Api(Path(kubeconfig)).client.get(pods).status_code == 403

    supervisor = psutil.Process(running["pid"])
    processes = [supervisor, *supervisor.children(recursive=True)]
    assert person.type("scripts/control_plane.sh", "down").returncode == 0
    _, left = psutil.wait_procs(processes, timeout=10)
    assert left == []
    assert not Path(line[1]).parent.exists()
    assert "nothing is running" in person.type("scripts/control_plane.sh", "down").stdout


def test_bad_input_is_refused_in_words(person: Person, tmp_path: Path) -> None:
    assert "usage: scripts/control_plane.sh up" in person.type("scripts/control_plane.sh", "up", "--help").stdout
    programs = tmp_path / "bin"
    programs.mkdir()
    for directory in os.environ["PATH"].split(os.pathsep):
        for program in Path(directory).glob("*"):
            if program.name != "go" and not (programs / program.name).exists():
                (programs / program.name).symlink_to(program)
    without_go = {"PATH": str(programs), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    for words, environment, message in (
        (["up", "--port=80"], {}, "'80' is not a port"),
        (["up", "--nodes=many"], {}, "invalid choice"),
        (["up", "--topology=3x5"], {}, "3x5"),
        (["user", "anna"], {}, "no control plane runs"),
        (["up"], without_go, "there is no `go` on PATH: install Go 1.25"),
        (["up"], {"KUBEBUILDER_ASSETS": str(tmp_path)}, "etcd, kube-apiserver, kubectl missing there"),
    ):
        refused = person.type("scripts/control_plane.sh", *words, **environment)
        assert refused.returncode == 2
        assert message in refused.stderr
        assert "Traceback" not in refused.stderr

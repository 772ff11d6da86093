"""Every command of docs/gke.md, in its order and by a shell: real API server and operator, and a gcloud that writes down."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from emulation.hosts.preflight import free_ports
from emulation.kubernetes import build
from emulation.kubernetes.nodes.kubelet import Kubelet
from tests.kuberay import fake_gcloud
from tests.kuberay.fake_ray import FakeRay, running_fake_ray
from tests.kuberay.namespaces import cleared
from tests.kuberay.plane import ROOT, ControlPlane

pytestmark = pytest.mark.full
_NAMESPACE = "gemma"  # docs/gke.md's own


def commands(document: Path) -> list[str]:
    """The indented lines of a document outside its fenced blocks, each with the lines that continue it."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"(?:^ {4}.*\n)+", text, re.MULTILINE)
    lines = "".join(re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in blocks)
    return lines.replace("\\\n", " ").splitlines()


@dataclass
class Shell:
    """A checkout of this project with `gcloud` and `kubectl` on PATH; what each command printed, by the command."""

    directory: Path
    environment: dict[str, str]
    output: dict[str, str] = field(default_factory=dict)
    running: list["subprocess.Popen[str]"] = field(default_factory=list)

    def run(self, command: str, stdin: str = "") -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.directory,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        self.output[command] = done.stdout + done.stderr
        return done.stdout

    def begin(self, command: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=self.directory, env=self.environment, stdout=subprocess.PIPE, text=True
        )
        self.running.append(process)
        return process


@pytest.fixture
def shell(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Shell]:
    for name in ("kuberay", "scripts", "serve_configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gcloud").write_text(f"#!{sys.executable}\n{Path(fake_gcloud.__file__).read_text()}")
    (programs / "gcloud").chmod(0o755)
    (programs / "kubectl").symlink_to(build.programs().path("kubectl"))
    environment = {
        **os.environ,
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "FAKE_GCLOUD": str(tmp_path),
        "KUBECONFIG": str(control_plane.kubeconfig),
    }
    shell = Shell(tmp_path, environment)
    yield shell
    for process in shell.running:
        process.kill()
        process.wait()
    cleared(control_plane, _NAMESPACE)


@pytest.fixture
def ray() -> Iterator[tuple[FakeRay, int]]:
    with running_fake_ray() as fake:
        yield fake


@pytest.mark.usefixtures("slice_nodes")
def test_the_documents_commands_do_what_it_says(shell: Shell, kubelet: Kubelet, ray: tuple[FakeRay, int]) -> None:
    fake, fake_port = ray
    for port in (8000, 8265):
        kubelet.listen("gemma-head-*", port, fake_port)
    local, dashboard = free_ports(2)
    wanted = commands(ROOT / "docs" / "gke.md")
    assert len(wanted) > 15
    for command in wanted:
        if "create secret" in command:
            shell.run(command, stdin="hf_x")
        elif " forward " in command:
            process = shell.begin(f"{command} --port={local} --dashboard-port={dashboard}")
            assert process.stdout
            assert "/v1" in process.stdout.readline()
        elif command.startswith("curl"):
            shell.run(command.replace(":8000/", f":{local}/"))
        elif command.startswith("scripts/gke.py down"):
            with pytest.raises(AssertionError, match="its Rapid Cache lives for an hour"):
                shell.run(command)
            things = json.loads((shell.directory / "things.json").read_text())
            things["gs://my-project-gemma"]["caches"] = []  # an hour later
            (shell.directory / "things.json").write_text(json.dumps(things))
            shell.run(command)
        else:
            shell.run(command)

    output = shell.output
    spec = next(command.split()[-1] for command in wanted if command.startswith("cp kuberay/examples/"))
    assert "gcloud container clusters create gemma" in output[f"scripts/gke.py plan {spec}"]
    assert "kind: RayCluster" in output[f"scripts/cluster.py render {spec}"]
    assert "made  GKE cluster gemma" in output[f"scripts/gke.py up {spec}"]
    assert "+kind: RayCluster" in output[f"scripts/cluster.py diff {spec}"]
    assert "head ready, 4 of 4 hosts ready" in output[f"scripts/cluster.py wait {spec}"]
    assert "running: llm, chat" in output[f"scripts/cluster.py deploy {spec}"]
    assert "app llm: RUNNING" in output[f"scripts/cluster.py status {spec}"]
    assert next(text for command, text in output.items() if command.startswith("curl")).count("wired to each other") == 1
    token = next(text for command, text in output.items() if "auth_token" in command)
    assert f"Bearer {token}" in fake.tokens
    assert "ray-worker" in output[f"scripts/cluster.py logs {spec} --host 2"]
    assert "parked" in output[f"scripts/cluster.py park {spec}"]
    assert "RayCluster/gemma deleted" in output[f"scripts/cluster.py down {spec}"]
    assert [app["name"] for app in fake.deployed["applications"]] == ["llm", "chat"]

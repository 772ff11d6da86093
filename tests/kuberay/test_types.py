"""Every variant of the manifests against a real API server's types, strictly: KubeRay's, Gateway API's, stand-ins of GKE's."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from emulation.kubernetes.nodes.api import wait_for
from emulation.kubernetes.nodes.cloud import Cloud
from tests.kuberay.deployment import Deployment
from tests.kuberay.test_dead_ends import knows
from tests.kuberay.test_render import VARIANTS

pytestmark = pytest.mark.full
_TYPES = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}"
_KINDS = ("rayclusters.ray.io", "rayservices.ray.io")
_OLD = "github.com/ray-project/kuberay/ray-operator@v1.4.2"


@pytest.mark.parametrize("name", VARIANTS)
def test_the_server_takes_every_field(name: str, deployment: Deployment, tpu_webhook: object) -> None:  # noqa: ARG001
    deployment.make_namespace()
    deployment.change(**{key: value for key, value in VARIANTS[name].items() if key not in ("namespace", "api_keys")})
    output = deployment.do("apply", "--dry-run")
    assert "would be made" in output
    assert "conflict" not in output


def test_a_kuberay_of_2025_takes_what_it_knows(deployment: Deployment, cloud: Cloud) -> None:  # noqa: ARG001
    """KubeRay 1.4 knows no token; the rest is taken as far as it is known."""
    deployment.make_namespace()
    old = _types_of(_OLD)
    now = {kind: deployment.plane.api.get(_TYPES.format(kind))["spec"]["versions"] for kind in _KINDS}
    try:
        for kind in _KINDS:
            deployment.plane.api.merge(_TYPES.format(kind), {"spec": {"versions": old[kind]}})
        wait_for(lambda: not knows(deployment.plane.api, "authOptions"), 30, "the server still knows the new fields")
        refused = deployment.run("apply", "--dry-run")
        assert (refused.code, "knows no token" in refused.err) == (1, True), refused.text
        deployment.change(auth="none")
        assert "note: this KubeRay (before 1.6)" in deployment.do("apply", "--dry-run")
    finally:
        for kind in _KINDS:
            deployment.plane.api.merge(_TYPES.format(kind), {"spec": {"versions": now[kind]}})
        wait_for(lambda: knows(deployment.plane.api, "authOptions"), 30, "the server does not know its fields again")


def _types_of(module: str) -> dict[str, list[dict[str, Any]]]:
    done = subprocess.run(["go", "mod", "download", "-json", module], capture_output=True, text=True, timeout=120, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = Path(json.loads(done.stdout)["Dir"]) / "config" / "crd" / "bases"
    types = [yaml.safe_load(path.read_text()) for path in folder.glob("*.yaml")]
    return {each["metadata"]["name"]: each["spec"]["versions"] for each in types}

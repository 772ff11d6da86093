"""Manifests against the reviewed ones in golden/: one deployment as a whole, others by what they change in it.

`UPDATE_GOLDEN=1 pytest tests/kuberay/test_render.py` writes them anew.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from kuberay.command import main
from kuberay.consistency import load_checked
from kuberay.manifests import pods
from kuberay.objects import KINDS, Manifest, title
from kuberay.render import Part, manifests, to_yaml
from tests.kuberay.specs import EXAMPLE, ROOT, spec, write_spec
from tests.timing import processor_s

GOLDEN = Path(__file__).parent / "golden"
VARIANTS: dict[str, dict[str, Any]] = {
    "autopilot-spot-two-slices": {
        "cloud__mode": "autopilot",
        "slices__capacity__kind": "spot",
        "slices__count": 2,
        "users": {"deployers": ["user:alice@example.com", "group:ml@example.com"], "viewers": ["user:bert@example.com"]},
    },
    "service-with-redis-keys-and-root": {
        "kind": "RayService",
        "fault_tolerance": {"address": "redis:6379", "password": {"name": "redis", "key": "password"}},
        "api_keys": "api-keys",
        "slices__run_as_root": True,
        "metrics": "operator",
        "metrics_labels": {"release": "prometheus"},
        "traces": "http://otel-collector.monitoring:4317",
    },
    "exposed-with-a-queue": {
        "expose": {"host": "llm.example.com", "iap": True, "dashboard": "ray.example.com"},
        "overlay": {
            "labels": {"team": "ml"},
            "annotations": {"example.com/owner": "ml"},
            "tolerations": [{"key": "dedicated", "operator": "Exists"}],
            "priority_class": "serving",
            "env": {"HTTPS_PROXY": "http://proxy:3128", "HOME": "/not-ours-to-change"},
            "pull_secrets": ["registry"],
            "patches": {"NetworkPolicy/gemma": {"metadata": {"labels": {"patched": "yes"}}}},
            "kueue": {"queue": "tpu", "topology": "cloud.google.com/gke-nodepool"},
        },
        "slices__capacity": [{"kind": "reservation", "reservation": "projects/other/reservations/ours"}, {"kind": "on-demand"}],
        "slices__capabilities": ["SYS_RESOURCE"],
    },
    "bare": {
        "namespace": "default",
        "auth": "none",
        "metrics": False,
        "slices__network": "none",
        "hub_token": None,
        "api_keys": None,
        "model__revision": "main",
    },
}


def rendered(directory: Path, changes: dict[str, Any]) -> list[Manifest]:
    return manifests(spec(directory, **changes), "applications: [] # the text of the Serve config\n")


def reviewed(name: str, text: str) -> str:
    """The golden file, which is `text` from now on if UPDATE_GOLDEN is set."""
    golden = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    return golden.read_text()


def flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Each leaf with its path; in lists of things with a name, that is their place."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flat(item, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield from flat(item, f"{path}[{item.get('name', number) if isinstance(item, dict) else number}]")
    else:
        yield path, repr(value)


def leaves(manifest: Manifest) -> dict[str, str]:
    """All but the namespace. Of a RayService the cluster in it, at the places of a RayCluster's own."""
    paths = dict(flat(manifest))
    paths.pop("metadata.namespace", None)
    return {path.replace("spec.rayClusterConfig.", "spec."): value for path, value in paths.items()}


def patch(before: list[Manifest], after: list[Manifest]) -> str:
    """The objects of `after` in their order, each with its leaves that changed; then those that are gone."""

    def key(manifest: Manifest) -> str:
        """The same for a job with another digest in its name."""
        return re.sub(r"-[0-9a-f]{8}$", "", title(manifest).replace("RayService/", "RayCluster/"))

    old = {key(manifest): leaves(manifest) for manifest in before}
    lines = []
    for manifest in after:
        was, is_now = old.pop(key(manifest), {}), leaves(manifest)
        lines.append(title(manifest))
        lines += [f"  - {path}: {value}" for path, value in was.items() if is_now.get(path) != value]
        lines += [f"  + {path}: {value}" for path, value in is_now.items() if was.get(path) != value]
    return "\n".join([*lines, *(f"gone: {name}" for name in old)]) + "\n"


def test_the_examples_manifests_are_the_reviewed_ones(tmp_path: Path) -> None:
    text = to_yaml(rendered(tmp_path, {}), "example")
    assert text == reviewed("example.yaml", text)


@pytest.mark.parametrize("name", VARIANTS)
def test_another_specs_manifests_differ_as_reviewed(name: str, tmp_path: Path) -> None:
    text = patch(rendered(tmp_path, {}), rendered(tmp_path, VARIANTS[name]))
    assert text == reviewed(f"{name}.patch", text)


@pytest.mark.parametrize("changes", [{}, *VARIANTS.values()], ids=["example", *VARIANTS])
def test_every_namespace_is_the_specs(changes: dict[str, Any], tmp_path: Path) -> None:
    for manifest in rendered(tmp_path, changes):
        wanted = changes.get("namespace", "gemma") if KINDS[manifest["kind"]].namespaced else None
        assert manifest["metadata"].get("namespace") == wanted


@pytest.mark.parametrize("changes", [{}, *VARIANTS.values()], ids=["example", *VARIANTS])
def test_the_parts_are_the_whole(changes: dict[str, Any], tmp_path: Path) -> None:
    wanted = spec(tmp_path, **changes)
    platform, workload = (manifests(wanted, "", part) for part in get_args(Part))
    assert [manifest["kind"] for manifest in workload] == ["Job", changes.get("kind", "RayCluster")]
    assert platform + workload == manifests(wanted, "")


def test_no_label_of_ours_hides_pods_from_kuberays_services(tmp_path: Path) -> None:
    cluster = next(manifest for manifest in rendered(tmp_path, {}) if manifest["kind"] == "RayCluster")
    templates = [cluster["spec"]["headGroupSpec"]["template"], cluster["spec"]["workerGroupSpecs"][0]["template"]]
    for template in templates:
        assert "app.kubernetes.io/name" not in template["metadata"]["labels"]


def test_the_serve_config_writes_where_the_pods_let_it() -> None:
    config = yaml.safe_load((ROOT / "serve_configs" / "gemma.yaml").read_text())
    llm = config["applications"][0]["args"]["llm_configs"][0]
    assert llm["model_loading_config"]["model_source"].startswith(pods.WEIGHTS + "/")
    assert llm["runtime_env"]["env_vars"]["VLLM_XLA_CACHE_PATH"].startswith(pods.CACHE + "/")


def test_kustomize_builds_what_render_prints(tmp_path: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed here, and has Kustomize")
    path, base = write_spec(tmp_path, **VARIANTS["exposed-with-a-queue"]), tmp_path / "deploy" / "base"
    for _ in range(2):  # again into the same directory
        assert main(["render", str(path), f"--kustomize={base}"]) == 0
    built = subprocess.run([kubectl, "kustomize", str(base)], capture_output=True, text=True, check=True, timeout=60)
    wanted = load_checked(path)
    objects = {title(manifest): manifest for manifest in yaml.safe_load_all(built.stdout)}
    assert objects == {title(manifest): manifest for manifest in manifests(wanted.spec, wanted.serve_text)}


def test_somebody_elses_kustomization_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = tmp_path / "kustomization.yaml"
    theirs.write_text("resources: []\n")
    assert main(["render", str(write_spec(tmp_path)), f"--kustomize={tmp_path}", "--part=workload"]) == 2
    assert f"{theirs}: not made by this command" in capsys.readouterr().err
    assert (theirs.read_text(), (tmp_path / "workload.yaml").exists()) == ("resources: []\n", False)


def test_render_needs_no_cluster_and_less_than_a_second() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"} | {"HOME": "/nonexistent"}
    command = [sys.executable, str(ROOT / "scripts" / "cluster.py"), "render", str(EXAMPLE)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(list(yaml.safe_load_all(done.stdout))) == 17

    def again() -> object:
        return subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, timeout=60)

    assert min(processor_s(again) for _ in range(3)) < 1  # what runs beside it costs it some

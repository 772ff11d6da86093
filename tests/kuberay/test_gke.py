"""scripts/gke.py against a gcloud that writes everything down, and its commands against the real one's own grammar."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kuberay.gke.resources import resources
from tests.kuberay import fake_gcloud
from tests.kuberay.specs import ROOT, spec, write_spec

TOO_NEW = ("--accelerator-network-profile=auto",)
"""Flags of the GKE tutorial that gcloud before 2026 does not know."""
VARIANTS: dict[str, dict[str, Any]] = {
    "standard": {},
    "autopilot": {"cloud__mode": "autopilot"},
    "spot": {"slices__capacity__kind": "spot", "slices__count": 2},
    "flex-start": {"slices__capacity__kind": "flex-start", "slices__network": "none"},
    "reservation": {"slices__capacity": {"kind": "reservation", "reservation": "ours"}, "cloud__rapid_cache": False},
    "own-network": {
        "cloud__regional": True,
        "cloud__network": "projects/host/global/networks/shared",
        "cloud__subnetwork": "projects/host/regions/us-east5/subnetworks/tpu",
        "cloud__private_nodes": True,
        "cloud__node_account": "nodes@my-project.iam.gserviceaccount.com",
        "cloud__kms_key": "projects/keys/locations/us-east5/keyRings/ring/cryptoKeys/key",
    },
    "exposed": {"expose": {"host": "llm.example.com", "iap": True, "dashboard": "ray.example.com"}},
    "choices": {"slices__capacity": [{"kind": "spot"}, {"kind": "on-demand"}], "cloud__channel": "rapid"},
}


@dataclass
class Project:
    """A project behind the fake gcloud."""

    home: Path
    environment: dict[str, str]
    spec: Path

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(ROOT / "scripts" / "gke.py"), arguments[0], str(self.spec), *arguments[1:]]
        return subprocess.run(command, env=self.environment, cwd=self.home, capture_output=True, text=True, timeout=60)

    def calls(self) -> list[list[str]]:
        path = self.home / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def changes(self) -> list[list[str]]:
        reading = {"describe", "list", "get-iam-policy", "get-credentials", "get-value", "enable"}
        return [call for call in self.calls() if not reading & set(call)]

    def things(self) -> dict[str, Any]:
        path = self.home / "things.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def change(self, name: str, **values: Any) -> None:
        things = self.things()
        things[name] |= values
        (self.home / "things.json").write_text(json.dumps(things))

    def fail(self, words: str, message: str) -> None:
        (self.home / "fail").write_text(f"{words}\t{message}")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return made_project(tmp_path)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What there is after an `up`."""
    project = made_project(tmp_path_factory.mktemp("project"))
    assert project.run("up").returncode == 0
    return project.things()


@pytest.fixture
def whole(project: Project, everything: dict[str, Any]) -> Project:
    """A project in which `up` has made all."""
    (project.home / "things.json").write_text(json.dumps(everything))
    return project


def made_project(tmp_path: Path) -> Project:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "gcloud"
    program.write_text(f"#!{sys.executable}\n{Path(fake_gcloud.__file__).read_text()}")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "FAKE_GCLOUD": str(tmp_path)}
    return Project(tmp_path, environment, write_spec(tmp_path))


def _account(members: list[str]) -> str:
    """The pods' account in the one member of a binding, which is of the right project and namespace."""
    (member,) = members
    pool = "projects/123456789012/locations/global/workloadIdentityPools/my-project.svc.id.goog"
    start = f"principal://iam.googleapis.com/{pool}/subject/ns/gemma/sa/"
    assert member.startswith(start)
    return member.removeprefix(start)


def test_from_an_empty_project_and_back(project: Project) -> None:
    done = project.run("up")
    assert done.returncode == 0, done.stderr
    assert "made  GKE cluster gemma (standard)" in done.stdout
    bucket = project.things()["gs://my-project-gemma"]
    given = {
        (_account(binding["members"]), binding["role"], binding.get("condition", {}).get("expression"))
        for binding in bucket["bindings"]
    }
    programs = 'resource.name.startsWith("projects/_/buckets/my-project-gemma/objects/compile-cache/gemma-4-31b-it/")'
    assert given == {
        ("gemma-serve", "roles/storage.objectViewer", None),
        ("gemma-serve", "roles/storage.objectUser", programs),  # and nowhere else may serving write
        ("gemma-stage", "roles/storage.objectUser", None),
        ("gemma-stage", "roles/storage.legacyBucketReader", None),
    }
    first = project.changes()

    again = project.run("up")
    assert again.returncode == 0, again.stderr
    assert project.changes() == first  # nothing is made twice
    assert "there already  node pool gemma-tpu-0" in again.stdout

    rows = json.loads(project.run("status", "--json").stdout)
    assert all(row["there"] and not row["problem"] for row in rows)

    planned = project.run("down", "--dry-run")
    assert "would run  gcloud container clusters delete gemma" in planned.stdout
    assert project.changes() == first

    project.change("gs://my-project-gemma", caches=[])  # it would keep the bucket for an hour
    gone = project.run("down")
    assert gone.returncode == 0, gone.stderr
    image = "us-east5-docker.pkg.dev/my-project/ray-tpu-serve/server:0.1.0"  # went with its repository
    assert set(project.things()) == {image, "projects/my-project"}
    assert project.things()["projects/my-project"] == {"bindings": []}
    assert not any(row["there"] for row in json.loads(project.run("status", "--json").stdout) if row["what"] != "image")
    assert project.run("down").returncode == 0


def test_a_network_an_account_and_a_key_of_ones_own_are_used(project: Project) -> None:
    project.spec = write_spec(project.home, **VARIANTS["own-network"])
    lines = project.run("plan").stdout.splitlines()
    (cluster,), (pool,) = ([line for line in lines if f"{what} create" in line] for what in ("clusters", "node-pools"))
    assert "--location=us-east5 " in cluster
    assert "--network=projects/host/global/networks/shared" in cluster
    assert "--enable-private-nodes" in cluster
    assert "--node-locations=us-east5-b" in pool
    assert all("--service-account=nodes@my-project" in line for line in (cluster, pool))
    assert all("cryptoKeys/key" in line for line in (cluster, pool, *[line for line in lines if "buckets create" in line]))
    assert not any("service-accounts create gemma-nodes" in line for line in lines)


def test_what_others_made_is_used_and_never_removed(project: Project) -> None:
    caches = [{"id": "my-project-gemma/us-east5-b", "zone": "us-east5-b", "state": "RUNNING"}]
    bucket = {"location": "US-EAST5", "labels": {"deployment": "other"}, "bindings": [], "caches": caches}
    (project.home / "things.json").write_text(json.dumps({"gs://my-project-gemma": bucket}))
    up = project.run("up")
    assert "there already  bucket my-project-gemma (not made for this deployment: down leaves it)" in up.stdout
    down = project.run("down")
    assert "stays  bucket my-project-gemma: was not made by this command" in down.stdout
    kept = project.things()["gs://my-project-gemma"]
    assert kept["caches"] == caches
    assert kept["bindings"] == []  # but what was given on it is taken back


def test_a_bucket_waits_for_its_cache_to_be_gone(whole: Project) -> None:
    down = whole.run("down")
    assert down.returncode == 1
    assert "stays  bucket my-project-gemma: its Rapid Cache lives for an hour and more" in down.stdout
    assert "run `scripts/gke.py down` again" in down.stderr
    assert "gs://my-project-gemma" in whole.things()
    assert "container/clusters/gemma" not in whole.things()  # nothing else waits for it


def test_new_accounts_have_the_roles_that_they_need_and_no_default_one_is_used(project: Project) -> None:
    up = project.run("up")
    given = {(binding["role"], *binding["members"]) for binding in project.things()["projects/my-project"]["bindings"]}
    nodes, build = (f"gemma-{use}@my-project.iam.gserviceaccount.com" for use in ("nodes", "build"))
    assert given == {
        ("roles/container.defaultNodeServiceAccount", f"serviceAccount:{nodes}"),
        ("roles/artifactregistry.reader", f"serviceAccount:{nodes}"),
        ("roles/cloudbuild.builds.builder", f"serviceAccount:{build}"),
    }
    makes_nodes = [call for call in project.changes() if call[0] == "container" and call[2] == "create"]
    assert all(f"--service-account={nodes}" in call for call in makes_nodes)
    (submit,) = [call for call in project.changes() if call[:2] == ["builds", "submit"]]
    assert f"--service-account=projects/my-project/serviceAccounts/{build}" in submit
    assert "anna@example.com does not have by itself" in up.stderr
    assert "roles/iam.serviceAccountUser" in up.stderr
    owner = {"role": "roles/owner", "members": ["user:anna@example.com"]}
    project.change("projects/my-project", bindings=[owner])
    assert "note:" not in project.run("up").stderr


def test_who_may_not_see_the_projects_roles_may_still_have_them(project: Project, everything: dict[str, Any]) -> None:
    project.spec = write_spec(project.home, cloud__node_account="nodes@example.com", image="registry.example/server:1")
    (project.home / "things.json").write_text(json.dumps(everything))
    project.fail("projects get-iam-policy", "ERROR: (gcloud) PERMISSION_DENIED: resourcemanager.projects.getIamPolicy")
    up = project.run("up")
    assert up.returncode == 0, up.stderr
    assert "note: whether anna@example.com has the roles that are needed cannot be seen" in up.stderr


def test_what_is_made_is_seen_again_only_where_something_could_be_wrong_with_it(project: Project) -> None:
    assert project.run("up").returncode == 0
    described = [call[:3] for call in project.calls() if "describe" in call]
    assert described.count(["container", "clusters", "describe"]) == 2
    assert described.count(["iam", "service-accounts", "describe"]) == 2  # of the nodes, and of the build


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "ERROR", "statusMessage": "no quota"}, "is ERROR (no quota): delete it, and run up again"),
        ({"placementPolicy": {"tpuTopology": "2x4"}}, "with topology 2x4, the spec needs ct6e-standard-4t with 4x4"),
    ],
)
def test_a_node_pool_that_no_pod_would_come_to_is_refused(whole: Project, change: dict[str, Any], message: str) -> None:
    whole.change("container/node-pools/gemma-tpu-0", **change)
    again = whole.run("up")
    assert again.returncode == 1
    assert message in again.stderr


def test_a_parked_cluster_has_no_tpu_nodes_however_they_are_bought(project: Project) -> None:
    for variant in ({}, VARIANTS["spot"], VARIANTS["flex-start"], VARIANTS["reservation"]):
        project.spec = write_spec(project.home, **variant)
        pools = [line for line in project.run("plan").stdout.splitlines() if "node-pools create" in line]
        assert pools
        assert all("--num-nodes=0 --enable-autoscaling --min-nodes=0 --max-nodes=4" in pool for pool in pools)
    project.spec = write_spec(project.home, **VARIANTS["choices"])  # which are a ComputeClass's
    assert "node-pools" not in project.run("plan").stdout


def test_the_bucket_can_be_kept(whole: Project) -> None:
    down = whole.run("down", "--keep-bucket")
    assert "kept  bucket my-project-gemma" in down.stdout
    assert "gs://my-project-gemma" in whole.things()
    assert "container/clusters/gemma" not in whole.things()


def test_a_run_that_breaks_off_is_gone_on_with(project: Project) -> None:
    project.fail("node-pools", "ERROR: (gcloud) GCE_STOCKOUT: no capacity")
    broken = project.run("up")
    assert broken.returncode == 1
    assert "another zone, a reservation, or capacity flex-start" in broken.stderr
    (project.home / "fail").unlink()
    before = len(project.changes())
    assert project.run("up").returncode == 0
    assert [call[:3] for call in project.changes()[before:]] == [
        ["container", "node-pools", "create"],
        *[["storage", "buckets", "add-iam-policy-binding"]] * 4,
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"addonsConfig": {}}, "has no RayOperator add-on"),
        ({"networkConfig": {}}, "has no Dataplane V2"),
        ({"currentMasterVersion": "1.34.0-gke.1"}, "DRANET for TPU begins with 1.35.2-gke.1842000"),
        ({"workloadIdentityConfig": {}}, "has no Workload Identity"),
    ],
)
def test_a_cluster_that_lacks_something_is_refused_by_name(whole: Project, change: dict[str, Any], message: str) -> None:
    whole.change("container/clusters/gemma", **change)
    up = whole.run("up")
    assert up.returncode == 1
    assert message in up.stderr
    assert message in whole.run("status").stdout


def test_a_bucket_in_another_region_is_refused(whole: Project) -> None:
    whole.change("gs://my-project-gemma", location="EUROPE-WEST4")
    assert "is in europe-west4, the TPU hosts are in us-east5" in whole.run("up").stderr


def test_words_of_gcloud_reach_the_user_with_what_to_do(project: Project) -> None:
    project.fail("projects", "ERROR: You do not currently have an active account selected.")
    done = project.run("up")
    assert done.returncode == 1
    assert "run `gcloud auth login`" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_gcloud_it_says_so(project: Project) -> None:
    project.environment["PATH"] = str(project.home / "nothing")
    done = project.run("status")
    assert done.returncode == 2
    assert "gcloud is not installed" in done.stderr


def test_nothing_passes_through_a_shell(project: Project) -> None:
    evil = 'x\'; touch /tmp/owned; "$(id)" `id`'
    project.spec = write_spec(project.home, slices__capacity={"kind": "reservation", "reservation": evil})
    assert project.run("up").returncode == 0
    (pool,) = [call for call in project.changes() if "node-pools" in call]
    assert f"--reservation={evil}" in pool
    line = next(line for line in project.run("plan").stdout.splitlines() if "node-pools create" in line)
    assert f"--reservation={evil}" in shlex.split(line)
    assert not Path("/tmp/owned").exists()


def test_the_plan_asks_nothing_and_is_a_script(project: Project) -> None:
    done = project.run("plan")
    assert done.returncode == 0
    assert project.calls() == []
    (project.home / "plan.sh").write_text(done.stdout)
    subprocess.run(["bash", "-eu", str(project.home / "plan.sh")], env=project.environment, check=True, timeout=120)
    by_script = project.things()
    (project.home / "things.json").unlink()
    project.run("up")
    assert project.things() == by_script


def test_real_gcloud_knows_every_command(tmp_path: Path) -> None:
    if shutil.which("gcloud") is None:
        pytest.skip("gcloud is not installed here: its grammar cannot be asked")
    commands = [
        argv
        for changes in VARIANTS.values()
        for resource in resources(spec(tmp_path, **changes))
        for argv in (*resource.create, *resource.delete, *([resource.describe] if resource.describe else []))
    ]
    lines = sorted({shlex.join(["gcloud", *(part for part in argv if part not in TOO_NEW)]) for argv in commands})
    (tmp_path / "commands.json").write_text(json.dumps([{"command_string": line} for line in lines]))
    lint = ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={tmp_path / 'commands.json'}"]
    done = subprocess.run(lint, capture_output=True, text=True, timeout=120)
    results = json.loads(done.stdout)
    assert len(results) == len(lines)
    assert [(result["command_string"], result["error_message"]) for result in results if not result["success"]] == []

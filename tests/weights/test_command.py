"""`python -m apps.weights` as a person types it: what it copies, what it prints, and the exit code of each refusal."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ROOT
from tests.weights.bucket import Bucket
from tests.weights.conftest import model_files, served
from tests.weights.hub import COMMIT, REPOSITORY, RIGHT, Hub, running_hub

URL = "gs://models/gemma"


def run(*arguments: str, hub: Hub | None = None, token: str | None = None, **more: Any) -> "subprocess.CompletedProcess[str]":
    environment = {key: value for key, value in os.environ.items() if key not in ("HF_TOKEN", "HF_HOME")}
    environment |= {"HF_HOME": "/nonexistent", "HF_ENDPOINT": hub.endpoint if hub else "http://127.0.0.1:9", **more}
    if token:
        environment["HF_TOKEN"] = token
    command = [sys.executable, "-m", "apps.weights", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_from_the_hub_to_a_bucket_to_a_host(bucket: Bucket, hub: Hub, tmp_path: Path) -> None:
    staged = run("stage", REPOSITORY, "--to", URL, hub=hub)
    assert staged.returncode == 0, staged.stderr
    assert f"at {COMMIT}" in staged.stdout
    assert "licence: gemma" in staged.stdout
    wanted = served(model_files())
    assert {f"gemma/{name}" for name in wanted} | {"gemma/manifest.json"} == set(bucket.objects())

    fetched = run("prefetch", URL, "--to", str(tmp_path / "host"))
    assert fetched.returncode == 0, fetched.stderr
    assert {name: (tmp_path / "host" / name).read_bytes() for name in wanted} == wanted
    again = run("prefetch", URL, "--to", str(tmp_path / "host"))
    assert "of which 0.0 MiB were read now" in again.stdout

    assert run("verify", str(tmp_path / "host"), "--deep").returncode == 0
    assert run("verify", URL, "--deep").returncode == 0
    listed = json.loads(run("list", URL, "--json").stdout)
    assert (listed["revision"], listed["licence"], listed["size_bytes"]) == (COMMIT, "gemma", sum(map(len, wanted.values())))


def test_a_second_stage_reads_nothing(bucket: Bucket, hub: Hub) -> None:  # noqa: ARG001
    assert run("stage", REPOSITORY, "--to", URL, hub=hub).returncode == 0
    hub.downloaded.clear()
    again = run("stage", REPOSITORY, "--to", URL, hub=hub)
    assert again.returncode == 0
    assert "already, whole" in again.stderr
    assert sum(hub.downloaded.values()) == 0


def test_a_lost_object_is_staged_again_and_only_that(bucket: Bucket, hub: Hub) -> None:
    assert run("stage", REPOSITORY, "--to", URL, hub=hub).returncode == 0
    hub.downloaded.clear()
    bucket.storage.delete_file("models", "gemma/assets/tokenizer.json")
    assert run("stage", REPOSITORY, "--to", URL, hub=hub).returncode == 0
    assert set(hub.downloaded) == {"assets/tokenizer.json"}
    assert run("verify", URL, "--deep").returncode == 0


def test_another_model_is_not_overwritten_unasked(bucket: Bucket, hub: Hub, tmp_path: Path) -> None:  # noqa: ARG001
    assert run("stage", REPOSITORY, "--to", URL, hub=hub).returncode == 0
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    refused = run("stage", str(other), "--to", URL)
    assert refused.returncode == 2
    assert "give --replace" in refused.stderr
    assert run("stage", str(other), "--to", URL, "--replace").returncode == 0
    assert "config.json" in run("list", URL).stdout


def test_a_changed_file_of_the_same_size_is_seen(tmp_path: Path) -> None:
    model, url = tmp_path / "model", str(tmp_path / "bucket")
    model.mkdir()
    (model / "weights.safetensors").write_bytes(b"old bytes")
    assert run("stage", str(model), "--to", url).returncode == 0
    (model / "weights.safetensors").write_bytes(b"new bytes")
    assert run("stage", str(model), "--to", url).returncode == 2
    assert run("stage", str(model), "--to", url, "--replace").returncode == 0
    assert (tmp_path / "bucket" / "weights.safetensors").read_bytes() == b"new bytes"
    assert run("verify", url, "--deep").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["stage", REPOSITORY, "--to", "gs://nowhere/x"], 2, "there is no bucket 'nowhere'"),
        (["stage", REPOSITORY, "--to", URL, "--revision", "v9"], 2, "has no revision 'v9'"),
        (["stage", "google/unknown", "--to", URL], 2, "the hub has no model 'google/unknown' that you may see"),
        (["stage", "no/such/place", "--to", URL], 2, "neither a directory nor a hub id"),
        (["stage", REPOSITORY, "--to", URL, "--allow", "*.nothing"], 2, "no file is left"),
        (["stage", REPOSITORY, "--to", URL, "--region", "europe-west4"], 2, "is in us-east5, not in europe-west4"),
        (["stage", REPOSITORY, "--to", "nonsense://x/y"], 2, "is not a place for weights"),
        (["stage", REPOSITORY, "--to", "gs://"], 2, "names no bucket or directory"),
        (["stage", REPOSITORY, "--to", "/proc/nothing"], 1, "/proc/nothing: "),
        (["stage", "", "--to", URL], 2, "neither a directory nor a hub id"),
        (["list", ""], 2, "names no bucket or directory"),
        (["stage", REPOSITORY, "--to", URL, "--parallel", "0"], 2, "is not a whole number of 1 or more"),
        (["prefetch", URL, "--to", "/dev/null/x"], 3, "has no manifest.json"),
        (["list", URL], 3, "has no manifest.json"),
        (["verify", URL], 3, "has no manifest.json"),
    ],
)
def test_refusals(bucket: Bucket, hub: Hub, arguments: list[str], code: int, message: str) -> None:  # noqa: ARG001
    done = run(*arguments, hub=hub)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert message in done.stderr


def test_a_bucket_that_refuses_is_one_line(bucket: Bucket) -> None:
    bucket.faults = ["403"]
    done = run("list", URL)
    assert (done.returncode, done.stderr.count("\n"), "no permission" in done.stderr) == (1, 1, True), done.stderr


def test_gates_and_tokens(bucket: Bucket, hub: Hub) -> None:  # noqa: ARG001
    hub.gated = True
    gated = run("stage", REPOSITORY, "--to", URL, hub=hub)
    assert (gated.returncode, "is gated: accept its licence" in gated.stderr) == (1, True)
    wrong = run("stage", REPOSITORY, "--to", URL, hub=hub, token="hf_wrong")
    assert (wrong.returncode, "does not know this token" in wrong.stderr) == (1, True)
    assert "hf_wrong" not in wrong.stderr + wrong.stdout
    assert run("stage", REPOSITORY, "--to", URL, hub=hub, token=RIGHT).returncode == 0


@pytest.mark.parametrize("faults", [["429", "503"], ["cut"], ["500", "cut", "429"]])
def test_a_hub_that_stumbles_is_asked_again(bucket: Bucket, hub: Hub, faults: list[str]) -> None:  # noqa: ARG001
    hub.faults = list(faults)
    assert run("stage", REPOSITORY, "--to", URL, hub=hub).returncode == 0
    assert hub.faults == []
    assert run("verify", URL, "--deep").returncode == 0


IN_SMALL_PARTS = f"""
import sys
from apps.common.command_line import reports_errors
from apps.weights import hub_reader
from apps.weights.progress import Progress
from apps.weights.sources import open_source
from apps.weights.stage import stage
from apps.weights.store import Store

@reports_errors()
def main() -> int:
    hub_reader.STALL_S = 0.3
    source = open_source("{REPOSITORY}", None, ["*00001-of*"])
    stage(source, Store(sys.argv[1]), Progress(), parallel=2, part_bytes=256 * 1024)
    return 0

sys.exit(main())
"""
LARGE = "model-00001-of-00002.safetensors"


def stage_in_small_parts(hub: Hub, to: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "HF_HOME": "/nonexistent", "HF_ENDPOINT": hub.endpoint}
    command = [sys.executable, "-c", IN_SMALL_PARTS, str(to)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_a_hub_that_ignores_ranges_sends_a_file_once(tmp_path: Path) -> None:
    data = random.Random(0).randbytes(24 * 1024**2)
    with running_hub({LARGE: data}) as hub:
        hub.ranges = False
        hub.faults = ["", "", "cut"]  # two parts find out, then the one stream breaks
        staged = stage_in_small_parts(hub, tmp_path)
        assert staged.returncode == 0, staged.stderr
        assert (tmp_path / LARGE).read_bytes() == data
        assert hub.downloaded[LARGE] < 3 * len(data)  # in 48 parts: half of it was cut off, and two were closed at once


def test_what_an_earlier_run_has_copied_is_not_waited_for(tmp_path: Path) -> None:
    data = random.Random(0).randbytes(4 * 1024**2)
    with running_hub({LARGE: data}) as hub:
        hub.faults = ["", "", *["500"] * 10]
        assert "HTTP 500; gave up after 5 tries" in stage_in_small_parts(hub, tmp_path).stderr
        hub.ranges, hub.faults = False, []
        assert stage_in_small_parts(hub, tmp_path).returncode == 0
        assert (tmp_path / LARGE).read_bytes() == data


def test_an_expired_link_is_renewed_and_not_blamed_on_the_token(hub: Hub, tmp_path: Path) -> None:
    hub.faults = ["expired"]
    assert stage_in_small_parts(hub, tmp_path / "a").returncode == 0
    hub.faults = ["expired"] * 20
    refused = stage_in_small_parts(hub, tmp_path / "b")
    assert (refused.returncode, "token" in refused.stderr) == (1, False)
    assert "the link that the hub gave for the download has expired (HTTP 403); gave up after 5 tries" in refused.stderr


def test_an_answer_that_is_longer_than_its_range_is_not_taken(hub: Hub, tmp_path: Path) -> None:
    hub.faults = ["more"] * 20
    refused = stage_in_small_parts(hub, tmp_path)
    assert (refused.returncode, "Traceback" in refused.stderr) == (1, False)
    assert "the hub sent more than was asked for; gave up after 5 tries" in refused.stderr


def test_a_download_that_stands_still_ends_with_words(hub: Hub, tmp_path: Path) -> None:
    hub.faults = ["stall"] * 20
    refused = stage_in_small_parts(hub, tmp_path)
    assert (refused.returncode, "Traceback" in refused.stderr) == (1, False)
    assert "the hub has sent no byte for 0.3 s; gave up after 5 tries" in refused.stderr


def test_a_wrong_byte_from_the_hub_is_refused_and_named(bucket: Bucket, hub: Hub) -> None:
    hub.faults = ["flip"]
    done = run("stage", REPOSITORY, "--to", URL, "--parallel", "1", hub=hub)
    assert done.returncode == 3
    assert "config.json does not match the checksum that hub:google/gemma-4-test states" in done.stderr
    assert "gemma/manifest.json" not in bucket.objects()
    assert run("stage", REPOSITORY, "--to", URL, hub=hub).returncode == 0


def test_dry_run_moves_nothing(bucket: Bucket, hub: Hub) -> None:
    done = run("stage", REPOSITORY, "--to", URL, "--dry-run", hub=hub)
    assert "5 files" in done.stdout
    assert bucket.objects() == {}
    assert sum(hub.downloaded.values()) == 0


def test_no_hub_at_all(bucket: Bucket) -> None:  # noqa: ARG001
    done = run("stage", REPOSITORY, "--to", URL)
    assert done.returncode == 1
    assert "the hub gave no answer" in done.stderr

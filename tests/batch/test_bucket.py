"""A batch whose input and output are in a bucket, as a job on a cluster has them."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps.weights.store import Store
from tests.batch.files import ROOT, answers, assert_whole, command, many, run
from tests.batch.server import running as running_server
from tests.batch.test_batch import wait_for
from tests.weights.bucket import NAME, Bucket, running_bucket


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with running_bucket() as started:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", started.endpoint)  # the commands that a test starts inherit these
        monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        yield started


def test_a_batch_in_a_bucket_is_stopped_goes_on_and_appears_whole(bucket: Bucket, tmp_path: Path) -> None:
    with running_server() as server:
        store, source = Store(f"gs://{NAME}"), many(tmp_path / "in.jsonl", 300)
        lines = source.read_bytes().splitlines(keepends=True)
        store.write("in/1.jsonl", b"".join(lines[:200]))
        store.write("in/2.jsonl", b"".join(lines[200:]))
        store.write("in/notes.txt", b"none")
        arguments = (f"gs://{NAME}/in", "--to", f"gs://{NAME}/out/answers.jsonl", "--url", server.url)
        server.answer_s = 0.05
        process = subprocess.Popen(command(*arguments), cwd=ROOT, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: server.asked.total() > 100, "100 requests")
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
        assert (process.returncode, "Traceback" in error) == (130, False), error
        out = {name: data for name, data in bucket.objects().items() if name.startswith("out/")}
        assert set(out) == {"out/answers.jsonl.draft/000000", "out/answers.jsonl.draft/000001"}
        kept = out["out/answers.jsonl.draft/000001"].count(b"\n")
        assert kept > 30
        server.asked.clear()
        server.always["text 299"] = 400
        done = run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["sent"] == server.asked.total() + 1 == 300 - kept
        out = {name: data for name, data in bucket.objects().items() if name.startswith("out/")}
        assert set(out) == {"out/answers.jsonl", "out/answers.errors.jsonl"}
        local = tmp_path / "local" / "answers.jsonl"
        local.parent.mkdir()
        local.write_bytes(out["out/answers.errors.jsonl"])
        assert list(answers(local)) == ["id-299"]
        local.write_bytes(out["out/answers.jsonl"])
        assert_whole(local, 299)
        again = run(*arguments)
        assert "it was finished before, and nothing was sent" in again.stdout
        assert bucket.objects() == bucket.objects() | out


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_not_there_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    with running_server() as server:
        source = many(tmp_path / "in.jsonl", 3)
        for arguments, message in [
            ((source, "--to", "gs://nowhere/answers.jsonl"), "there is no bucket 'nowhere'"),
            ((f"gs://{NAME}/none.jsonl", "--to", tmp_path / "out.jsonl"), "none.jsonl: no such file"),
            ((source, "--to", f"gs://{NAME}/"), "give the name of a file"),
        ]:
            done = run(*arguments, "--url", server.url)
            assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
            assert message in done.stderr
        assert not server.asked

"""`rts batch` as a user runs it on a cluster: a Ray job, against the real stack."""

import subprocess
import sys
from pathlib import Path

from tests.batch.files import answers, text_of
from tests.e2e.conftest import ROOT, Stack


def test_a_ray_job_answers_a_batch_and_names_what_the_server_refuses(stack: Stack, tmp_path: Path) -> None:
    target = tmp_path / "answers.jsonl"
    ray = str(Path(sys.executable).parent / "ray")
    submit = [ray, "job", "submit", "--address", f"http://127.0.0.1:{stack.dashboard_port}", "--working-dir", str(ROOT), "--"]
    batch = ["python", "-m", "apps.batch", "examples/batch.jsonl", "--to", str(target), "--model", "gemma-3-270m"]
    environment = {**stack.environment, "RAY_AUTH_MODE": "token"}
    command = [*submit, *batch, "--url", stack.url]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "3 of 4 requests answered, 1 failed (1 x HTTP 400)" in done.stdout
    lines = answers(target)
    assert list(lines) == ["france", "japan", "water"]
    assert "100 degrees" in text_of(lines["water"])
    assert lines["france"]["response"]["request_id"]
    refused = answers(tmp_path / "answers.errors.jsonl")["impossible"]["response"]
    assert refused["status_code"] == 400
    assert "max_tokens" in refused["body"]["error"]["message"]

"""The benchmarks as a user runs them on a cluster: a Ray job against the real stack, then a report of the job's log."""

import subprocess
import sys
from pathlib import Path

from benchmarks.report.__main__ import main as report
from benchmarks.serving.files import read
from benchmarks.serving.validation import validate
from tests.e2e.conftest import ROOT, Stack

LOAD = ["--profile", "chat", "--prompt-tokens", "16", "--output-tokens", "4", "--clients", "8", "--requests", "24"]


def test_a_ray_job_measures_the_stack_and_the_report_takes_its_log(stack: Stack, tmp_path: Path) -> None:
    dashboard = f"http://127.0.0.1:{stack.dashboard_port}"
    ray = str(Path(sys.executable).parent / "ray")
    command = [ray, "job", "submit", "--address", dashboard, "--working-dir", str(ROOT), "--"]
    command += ["python", "-m", "benchmarks.serving", "--url", stack.url, "--dashboard", dashboard, *LOAD, "--out", "-"]
    environment = {**stack.environment, "RAY_AUTH_MODE": "token"}  # as the README exports it
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    log = tmp_path / "job.log"
    log.write_text(done.stdout)
    stored = read(log)
    [run], setting = stored.result.runs, stored.result.setting
    assert stored.records, stored.why_not
    assert (run.completed, run.output_tokens, run.errors) == (24, 96, {})
    assert setting.llm_config is not None
    assert setting.llm_config["engine_kwargs"]["max_num_seqs"] == 16
    assert run.replicas == 1
    # as Ray collects them, every ten seconds or so: a busy machine may not have them when so short a load has ended
    assert run.cached_by in ("metrics", None)
    assert (run.figures["cache_hit_rate"] is None) == (run.cached_by is None)
    # two cores for everything; and a base model that must go on after its end writes tokens that have no text
    excused = ("client", "sampled responses show")
    against = [
        finding for finding in validate(setting, run, stored.records[0]) if not any(each in str(finding) for each in excused)
    ]
    assert {finding.severity for finding in against} == {"flagged"}, against
    assert report([str(log), "--out", str(tmp_path / "page.html")]) in (0, 1)
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")

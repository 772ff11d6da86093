"""The stored schemas are those of the installed Ray and vLLM."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from apps.checks.known import DIRECTORY
from apps.checks.slice_rules import _UTILIZATION

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import dataclasses, json
from tests.checks.refresh import render, schemas
from vllm.engine.arg_utils import AsyncEngineArgs
defaults = {f.name: f.default for f in dataclasses.fields(AsyncEngineArgs)}
print(json.dumps({n: render(s) for n, s in schemas().items()} | {"utilization": defaults["gpu_memory_utilization"]}))
"""


@pytest.mark.full
def test_stored_schemas_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts.pop("utilization") == _UTILIZATION
    for name, text in facts.items():
        assert (DIRECTORY / f"{name}.json").read_text() == text, f"{name}: run python -m tests.checks.refresh"

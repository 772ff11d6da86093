"""The small model computed by one process: by the TPU engine with all chips of a slice, and by transformers."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.compile.environment import ROOT, ensure_environment
from emulation.hosts.hosts import EMULATED
from emulation.hosts.tpu_engine import host_environment
from tests.emulation.tpu import PROMPTS

_DEADLINE_S = 900


def engine_tokens(temp_dir: Path) -> list[list[int]]:
    """Tokens of the engine with the arguments and weights of serve.yaml in a directory that has vLLM's plugin."""
    environment = {**host_environment(temp_dir, EMULATED, {}), "TPU_NAME": "slice-a", "TPU_WORKER_ID": "0"}
    environment |= {"XLA_FLAGS": f"--xla_force_host_platform_device_count={EMULATED.chips}"}
    environment |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TPU_ACCELERATOR_TYPE": EMULATED.pod_type}
    return list(_result("one_host", temp_dir / "serve.yaml", PROMPTS, environment))


def distances(model: Path, tokens: list[list[int]]) -> list[float]:
    """Difference of the largest logit and that of each token, by transformers."""
    gaps = _result("reference", model, list(zip(PROMPTS, tokens, strict=True)), {})
    return [gap for answer in gaps for gap in answer]


def _result(module: str, argument: Path, asked: object, environment: dict[str, str]) -> list[list[Any]]:
    done = subprocess.run(
        [ensure_environment(print), "-m", f"tests.emulation.tpu.{module}", argument],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=_DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("result: "))
    return list(json.loads(line.removeprefix("result: ")))

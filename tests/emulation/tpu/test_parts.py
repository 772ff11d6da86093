"""What stands in for TPU hosts under the TPU engine; `engine_checks` has what needs the engine's own Python."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.compile import upstream
from benchmarks.compile.environment import ROOT, ensure_environment
from benchmarks.compile.upstream import UpstreamMovedError, replace
from emulation.hosts import config
from emulation.hosts.hosts import EMULATED
from emulation.hosts.tpu_engine import host_environment, install_plugin
from tests.emulation.tpu.one_process import distances, engine_tokens

needs_engine = pytest.mark.skipif(not os.environ.get("REQUIRE_COMPILER"), reason="installs 10 GB: REQUIRE_COMPILER=1 runs it")
_NEAR = 0.5  # of logits up to 30, in bfloat16
CHANGED = {  # by the port, the weights and the laptop, not by the engine
    *("proxy_location", "http_options.host", "applications.0.args.guard"),
    *("model_loading_config.model_id", "model_loading_config.model_source"),
    *("engine_kwargs.max_model_len", "engine_kwargs.num_gpu_blocks_override"),
}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "version", lambda _: "0.33.0")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("owner", "name", "takes", "why"),
    [
        ("tests.timing", "nothing", None, "has no attribute 'nothing'"),
        ("tests.no_such_module", "nothing", None, "No module named 'tests.no_such_module'"),
        ("benchmarks.compile.upstream", "replace", "owner name", r"it takes \(owner name by takes\), not \(owner name\)"),
    ],
)
def test_a_part_that_upstream_has_moved_is_named_with_both_versions(owner: str, name: str, takes: str | None, why: str) -> None:
    with pytest.raises(UpstreamMovedError, match=why) as caught:
        replace(owner, name, None, takes)
    assert f"{owner}.{name} is not what it was" in str(caught.value)
    assert "tpu-inference 0.29.0" in str(caught.value)
    assert "tpu-inference 0.33.0" in str(caught.value)


def paths(value: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of a config by its path; a model's begin with its own keys."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: leaf for key, item in items for name, leaf in paths(item, f"{path}.{key}").items()}
    return {path.removeprefix(".").removeprefix("applications.0.args.llm_configs.0."): value}


def test_the_config_is_the_slices_own_with_another_size() -> None:
    slices_own, emulated = paths(config.own(config.TPU_CONFIG)), paths(config.emulated(tpu_engine=True))
    differing = {path for path in slices_own.keys() | emulated.keys() if slices_own.get(path) != emulated.get(path)}
    assert {path for path in differing if not path.startswith("applications.0.args.guard.")} <= CHANGED
    assert "engine_kwargs.max_model_len" in differing


def test_only_hosts_of_a_stack_with_the_plugin_load_it(tmp_path: Path) -> None:
    assert host_environment(tmp_path, EMULATED, {}) == {}
    install_plugin(tmp_path)
    environment = host_environment(tmp_path, EMULATED, {})
    script = "from importlib.metadata import entry_points; print(*entry_points(group='vllm.general_plugins'))"
    for extra, there in ((environment, True), ({"PYTHONPATH": str(ROOT)}, False)):
        listed = subprocess.check_output([sys.executable, "-c", script], env={**os.environ, **extra}, text=True)
        assert ("emulation.tpu.plugin:register" in listed) is there


def test_both_environments_have_the_same_ray() -> None:
    assert f"ray=={version('ray')}\n" in (ROOT / "runtime_env" / "requirements-tpu.txt").read_text()
    assert upstream.WRITTEN_FOR["ray"] == version("ray")


@pytest.mark.full
@needs_engine
def test_the_engine_still_has_every_part_and_the_kernels_compute_the_same() -> None:
    python = ensure_environment(print)
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", Path(__file__).with_name("engine_checks.py")],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_NAME": "slice-a", "TPU_WORKER_ID": "0"},
        capture_output=True,
        text=True,
        timeout=840,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.full
@needs_engine
def test_the_engine_with_all_chips_makes_the_tokens_of_transformers_but_for_near_ties(tmp_path: Path) -> None:
    made = subprocess.check_output([ensure_environment(print), "-m", "emulation.tpu.model"], cwd=ROOT, text=True)
    model = Path(made.splitlines()[-1])
    install_plugin(tmp_path)
    serve_config = config.with_weights(config.emulated(tpu_engine=True), model.as_uri(), str(model))
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(serve_config))
    tokens = engine_tokens(tmp_path)
    assert len({token for answer in tokens for token in answer}) > 3  # else any engine would do
    gaps = distances(model, tokens)
    assert max(gaps) < _NEAR
    assert gaps.count(0) >= 0.75 * len(gaps), gaps

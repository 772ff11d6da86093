"""The LLM app's arguments: strict, and refused with the key named, before anything heavy is imported."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve import Application

from apps.common.errors import ContentError, UserError
from apps.llm import build_app
from apps.llm.args import LLMArgs
from emulation.hosts.config import emulated

ROOT = Path(__file__).resolve().parents[2]


def llm_args(config: str) -> dict[str, Any]:
    chosen = emulated() if config == "emulated" else yaml.safe_load((ROOT / "serve_configs" / config).read_text())
    apps = chosen["applications"]
    return next(app["args"] for app in apps if app["name"] == "llm")


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING", "1")


@pytest.mark.parametrize("config", ["local.yaml", "gemma.yaml", "emulated"])
def test_shipped_configs_are_valid_arguments(config: str) -> None:
    assert len(LLMArgs(**llm_args(config)).llm_configs) == 1


@pytest.mark.usefixtures("direct")
def test_gemma_builds_without_importing_vllm() -> None:
    code = (
        "import sys, yaml; from apps.llm import build_app; from apps.llm.args import LLMArgs;"
        "apps = yaml.safe_load(open('serve_configs/gemma.yaml'))['applications'];"
        "build_app(LLMArgs(**apps[0]['args'])); print('vllm' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.usefixtures("direct")
def test_the_deployment_carries_the_configs_options() -> None:
    app = build_app(LLMArgs(**llm_args("gemma.yaml")))
    assert isinstance(app, Application)
    deployment = app._bound_deployment
    assert deployment.name == "LLMServer:google--gemma-4-31B-it"
    assert deployment.ray_actor_options["runtime_env"]["env_vars"]["TPU_MULTIHOST_BACKEND"] == "ray"


@pytest.mark.usefixtures("direct")
def test_the_replica_is_told_its_part_of_the_guard() -> None:
    args = llm_args("gemma.yaml")
    args["llm_configs"][0]["deployment_config"] |= {"num_replicas": 3}
    config, guard = build_app(LLMArgs(**args))._bound_deployment.init_args
    assert config["engine_kwargs"]["structured_outputs_config"] == {"backend": "xgrammar"}  # which alone the guard tries
    assert (guard.replicas, guard.capacity, guard.context_tokens, guard.flavour) == (3, 128, 131072, "vllm-tpu")
    assert (guard.tokenizer, guard.local) == ("/weights/gemma-4-31b-it", False)
    assert guard.args.keys_files == ["/etc/guard/keys.json"]


@pytest.mark.parametrize("config", ["local.yaml", "emulated"])
@pytest.mark.usefixtures("direct")
def test_without_a_guards_section_the_guard_is_there_and_open_to_this_machine(config: str) -> None:
    guard = build_app(LLMArgs(**llm_args(config)))._bound_deployment.init_args[1]
    assert (guard.args.open, guard.local) == (True, True)


@pytest.mark.usefixtures("direct")
def test_what_other_machines_reach_is_not_built_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    args = llm_args("gemma.yaml") | {"guard": None}
    build_app(LLMArgs(**args))
    monkeypatch.setattr("apps.llm.build.open_host", lambda: "10.1.2.3")
    with pytest.raises(UserError, match=r"guard: Serve listens on 10.1.2.3.*open: true"):
        build_app(LLMArgs(**args))
    build_app(LLMArgs(**args | {"guard": {"open": True}}))


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="llm_config"):
        LLMArgs.model_validate({"llm_config": []})
    with pytest.raises(ValueError, match="at least 1"):
        LLMArgs(llm_configs=[])


@pytest.mark.usefixtures("direct")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model_loading_config": {}}, UserError, "model_id' is missing"),
        (
            {"callback_config": {}, "model_loading_config": {"model_id": "x", "model_source": "cache:nothing"}},
            ContentError,
            "never completed",
        ),
        ({"engine_kwargs": {"chat_template": "nope.jinja"}}, UserError, "base_model"),
        ({"accelerator_config": {"kind": "tpu", "topolgy": "4x4"}}, UserError, "did you mean topology"),
    ],
)
def test_what_cannot_be_resolved_is_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    config = {**llm_args("gemma.yaml")["llm_configs"][0], **change}
    with pytest.raises(error, match=message):
        build_app(LLMArgs(llm_configs=[config]))


@pytest.mark.usefixtures("direct")
def test_two_models_need_the_classic_path() -> None:
    config = llm_args("gemma.yaml")["llm_configs"][0]
    with pytest.raises(UserError, match="exactly one per app"):
        build_app(LLMArgs(llm_configs=[config, config]))


@pytest.mark.usefixtures("direct")
def test_a_replica_on_tpu_asks_for_a_slice_of_its_own() -> None:
    deployment = build_app(LLMArgs(**llm_args("gemma.yaml")))._bound_deployment
    assert deployment.ray_actor_options["resources"] == {"TPU-v6e-16-head": 1}

"""What each rule reports, on serve_configs/gemma.yaml with one thing changed."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from apps.checks.findings import Finding
from apps.checks.serve_rules import check_serve_config

ROOT = Path(__file__).resolve().parents[2]
GEMMA: dict[str, Any] = yaml.safe_load((ROOT / "serve_configs" / "gemma.yaml").read_text())
LLM = "applications[0].args.llm_configs[0]"


def changed(path: str, value: Any) -> dict[str, Any]:
    """gemma.yaml with `a.0.b` set, or removed for `...`."""
    config = copy.deepcopy(GEMMA)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    node: Any = config
    for part in parents:
        node = node[part]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return config


def errors(config: Any, **options: Any) -> list[Finding]:
    return [finding for finding in check_serve_config(config, **options) if finding.severity == "error"]


def test_the_shipped_config_has_no_errors() -> None:
    assert errors(GEMMA, slices=1) == []


LLM_PATH = "applications/0/args/llm_configs/0"
ENGINE, ENGINE_PATH = f"{LLM}.engine_kwargs", f"{LLM_PATH}/engine_kwargs"
CASES = [
    ("applicatons", [], "applicatons", "did you mean applications?"),
    ("http_options/prot", 1, "http_options.prot", "did you mean port?"),
    ("http_options/port", "8000", "http_options.port", "must be an integer"),
    ("proxy_location", "Everynode", "proxy_location", "did you mean EveryNode?"),
    ("applications/0/route_prefx", "/", "applications[0].route_prefx", "did you mean route_prefix?"),
    ("applications/1/route_prefix", "chat", "applications[1].route_prefix", "is 'chat': a route starts with /"),
    ("applications/1/route_prefix", "/chat/", "applications[1].route_prefix", "does not end with one"),
    ("applications/1/import_path", "hello", "applications[1].import_path", "package.module:app"),
    ("applications/1/import_path", "my-app:app", "applications[1].import_path", "package.module:app"),
    ("applications/1/name", "llm", "applications[1].name", "applications[0] has too"),
    ("applications/0/import_path", "apps.llm:app", "applications[0].import_path", "apps.llm:build_app"),
    ("applications/0/args/llm_config", [], "applications[0].args.llm_config", "did you mean llm_configs?"),
    ("applications/1/args/api_url", "no url", "applications[1].args.api_url", "valid URL"),
    ("applications/1/args/api_url", "http://127.0.0.1:9000/v1", "applications[1].args.api_url", "http_options.port is 8000"),
    ("applications/1/args/queue_lenght", 1, "applications[1].args.queue_lenght", "did you mean queue_length?"),
    ("applications/0/args/guard", ..., "applications[0].args.guard", "Serve listens on 0.0.0.0"),
    ("applications/0/args/guard", {}, "applications[0].args.guard", "needs either keys_files, or open: true"),
    ("applications/0/args/guard/keys_file", "/x", "applications[0].args.guard.keys_file", "did you mean keys_files?"),
    (
        "applications/0/args/guard/limits/max_token",
        5,
        "applications[0].args.guard.limits.max_token",
        "did you mean max_tokens?",
    ),
    ("applications/0/args/guard/limits/max_tokens", "5", "applications[0].args.guard.limits.max_tokens", "valid integer"),
    ("applications/0/args/guard/routes", ["/sleep"], "applications[0].args.guard", "may only be in admin_routes"),
    (f"{ENGINE_PATH}/api_key", ["secret"], f"{ENGINE}.api_key", "put them into guard.keys_files"),
    (
        f"{ENGINE_PATH}/structured_outputs_config",
        {"backend": "auto"},
        f"{ENGINE}.structured_outputs_config.backend",
        "xgrammar",
    ),
    (f"{LLM_PATH}/model_loading_config/model_id", ..., f"{LLM}.model_loading_config.model_id", "is missing"),
    (f"{LLM_PATH}/accelerator_type", "v6e", f"{LLM}.accelerator_type", "did you mean TPU-V6E?"),
    (
        f"{LLM_PATH}/accelerator_config",
        {"kind": "tpu", "topolgy": "4x4"},
        f"{LLM}.accelerator_config.topolgy",
        "mean topology?",
    ),
    (f"{LLM_PATH}/accelerator_config", ..., f"{LLM}.accelerator_config", "wait for one"),
    (f"{LLM_PATH}/accelerator_config/topology", "5x5", f"{LLM}.accelerator_config.topology", "give one of 1x1, 2x2"),
    (f"{LLM_PATH}/accelerator_config/topology", "2x4", f"{ENGINE}.tensor_parallel_size", "v6e 2x4 has 8 chips"),
    (f"{ENGINE_PATH}/tensor_parallel_size", 8, f"{ENGINE}.tensor_parallel_size", "8 x 1 x 1 = 8"),
    (f"{ENGINE_PATH}/max_model_length", 1, f"{ENGINE}.max_model_length", "did you mean max_model_len?"),
    (f"{ENGINE_PATH}/max_model_len", "8k", f"{ENGINE}.max_model_len", "must be an integer"),
    (f"{ENGINE_PATH}/max_model_len", 300000, f"{ENGINE}.max_model_len", "262,144 tokens at most"),
    (f"{ENGINE_PATH}/gpu_memory_utilization", 0.3, f"{ENGINE}.max_model_len", "largest context"),
    (f"{ENGINE_PATH}/gpu_memory_utilization", 0.1, f"{ENGINE}.gpu_memory_utilization", "do not fit"),
    (f"{ENGINE_PATH}/gpu_memory_utilization", 90, f"{ENGINE}.gpu_memory_utilization", "at most 1"),
    (f"{ENGINE_PATH}/dtype", "bf16", f"{ENGINE}.dtype", "bfloat16"),
    (f"{ENGINE_PATH}/tool_call_parser", "gema4", f"{ENGINE}.tool_call_parser", "did you mean gemma4?"),
    (f"{ENGINE_PATH}/model", "x", f"{ENGINE}.model", "model_source"),
    (f"{ENGINE_PATH}/disable_log_stats", True, f"{ENGINE}.disable_log_stats", "log_engine_metrics"),
    (
        f"{ENGINE_PATH}/disable_chunked_mm_input",
        ...,
        f"{ENGINE}.disable_chunked_mm_input",
        "must be true",
    ),
    (
        f"{ENGINE_PATH}/distributed_executor_backend",
        "mp",
        f"{ENGINE}.distributed_executor_backend",
        "4 hosts",
    ),
    (f"{ENGINE_PATH}/chat_template", "nope.jinja", f"{ENGINE}.chat_template", "base_model.jinja"),
    (
        f"{ENGINE_PATH}/structured_outputs_config",
        {"backend": "xgrammer"},
        f"{ENGINE}.structured_outputs_config.backend",
        "did you mean xgrammar?",
    ),
    (f"{LLM_PATH}/runtime_env/env_vars", {}, f"{LLM}.runtime_env.env_vars.TPU_MULTIHOST_BACKEND", "silently runs on one"),
    (f"{LLM_PATH}/runtime_env/env_vars/X", 1, f"{LLM}.runtime_env.env_vars.X", "must be a string"),
    (
        f"{LLM_PATH}/deployment_config/max_ongoing_request",
        1,
        f"{LLM}.deployment_config.max_ongoing_request",
        "mean max_ongoing",
    ),
    (f"{LLM_PATH}/deployment_config/num_replicas", 2, f"{LLM}.deployment_config.num_replicas", "2 replicas need 2 slices"),
    (
        f"{LLM_PATH}/experimental_configs",
        {"slice_timeout": 1},
        f"{LLM}.experimental_configs.slice_timeout",
        "mean slice_timeout_s?",
    ),
]


@pytest.mark.parametrize(
    ("path", "value", "where", "words"), CASES, ids=[f"{path}={value}"[-60:] for path, value, _, _ in CASES]
)
def test_a_mistake_is_named(path: str, value: Any, where: str, words: str) -> None:
    findings = errors(changed(path, value), slices=1)
    assert where in [finding.where for finding in findings], findings
    assert any(words in str(finding) for finding in findings if finding.where == where), findings


def test_two_models_need_the_classic_path() -> None:
    config = changed("applications/0/args/llm_configs", GEMMA["applications"][0]["args"]["llm_configs"] * 2)
    assert "exactly one per app" in str(errors(config)[0])
    assert not any("exactly one" in str(finding) for finding in errors(config, direct_streaming=False))


def test_what_a_parallelism_costs_is_a_warning() -> None:
    (warning,) = [finding for finding in check_serve_config(GEMMA) if finding.severity == "warning"]
    assert "20,480 bytes per token and chip where 5,120 would do" in warning.message


def test_a_surge_without_a_free_slice_is_a_warning() -> None:
    findings = check_serve_config(changed(f"{LLM_PATH}/deployment_config/max_surge_percent", 100), slices=1)
    assert "no slice is free" in str([finding for finding in findings if finding.severity == "warning"])
    assert "no slice is free" not in str(
        check_serve_config(changed(f"{LLM_PATH}/deployment_config/max_surge_percent", 100), slices=2)
    )


def test_somebody_elses_app_is_left_alone() -> None:
    config = changed("applications/1/import_path", "their.module:app")
    config["applications"][1]["args"] = {"anything": 1}
    assert errors(config) == []


def without_guard(host: str | None) -> dict[str, Any]:
    config = changed("applications/0/args/guard", ...)
    if host is None:
        del config["http_options"]["host"]
    else:
        config["http_options"]["host"] = host
    return config


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_on_loopback_nobody_needs_a_key(host: str) -> None:
    assert errors(without_guard(host)) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "myhost", None])
def test_elsewhere_the_model_must_ask_for_keys_or_be_said_to_be_open(host: str | None) -> None:
    config = without_guard(host)
    assert [finding.where for finding in errors(config)] == ["applications[0].args.guard"]
    config["applications"][0]["args"]["guard"] = {"open": True}
    assert errors(config) == []


def test_requests_that_wait_before_the_guard_are_a_warning() -> None:
    findings = check_serve_config(changed(f"{LLM_PATH}/deployment_config/max_ongoing_requests", 128))
    (warning,) = [finding for finding in findings if finding.where.endswith("max_ongoing_requests")]
    assert (warning.severity, warning.allowed) == ("warning", "more than 384")


ROUTER = {"request_router_class": "ray.serve.llm.request_router:PrefixCacheAffinityRouter"}


@pytest.mark.parametrize(
    ("path", "value"),
    [("deployment_config/request_router_config", ROUTER), ("lora_config", {"dynamic_lora_loading_path": "gs://bucket/lora"})],
)
def test_what_direct_streaming_ignores_is_an_error_and_fine_without_it(path: str, value: dict[str, str]) -> None:
    config = changed(f"{LLM_PATH}/{path}", value)
    (finding,) = [finding for finding in check_serve_config(config) if "direct streaming" in finding.message]
    assert (finding.severity, finding.where.endswith(path.replace("/", "."))) == ("error", True)
    assert not [
        finding for finding in check_serve_config(config, direct_streaming=False) if "direct streaming" in finding.message
    ]

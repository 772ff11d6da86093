"""The name under which compiled programs are kept: another one wherever XLA would compile something else."""

from typing import Any

import pytest

from apps.llm.cache_identity import identity, programs_url

CONFIG: dict[str, Any] = {
    "model_loading_config": {"model_id": "google/gemma-4-31B-it", "model_source": "/weights"},
    "accelerator_type": "TPU-V6E",
    "accelerator_config": {"kind": "tpu", "topology": "4x4"},
    "engine_kwargs": {"tensor_parallel_size": 16, "max_model_len": 8192},
    "deployment_config": {"num_replicas": 1},
}
VERSIONS = {"jax": "0.10.2", "libtpu": "0.0.42"}


@pytest.mark.parametrize(
    "change",
    [
        {"engine_kwargs": {"tensor_parallel_size": 16, "max_model_len": 4096}},
        {"accelerator_config": {"kind": "tpu", "topology": "4x8"}},
        {"accelerator_type": "TPU-V5E"},
        {"model_loading_config": {"model_id": "google/gemma-4-26B"}},
        {"runtime_env": {"env_vars": {"LIBTPU_INIT_ARGS": "--xla_tpu_use_enhanced_launch_barrier=false"}}},
    ],
    ids=["engine argument", "topology", "generation", "model", "compiler flags"],
)
def test_what_changes_the_programs_changes_the_name(change: dict[str, Any]) -> None:
    assert identity({**CONFIG, **change}, VERSIONS) != identity(CONFIG, VERSIONS)


def test_another_compiler_is_another_name() -> None:
    assert identity(CONFIG, {**VERSIONS, "libtpu": "0.0.43"}) != identity(CONFIG, VERSIONS)


def test_what_does_not_change_the_programs_keeps_the_name() -> None:
    cache = {"runtime_env": {"env_vars": {"VLLM_XLA_CACHE_PATH": "/another/disk"}}}
    elsewhere = {"model_loading_config": {"model_id": "google/gemma-4-31B-it", "model_source": "/other"}}
    assert identity({**CONFIG, **elsewhere, "deployment_config": {"num_replicas": 2}, **cache}, VERSIONS) == identity(
        CONFIG, VERSIONS
    )


def test_programs_are_beside_the_models() -> None:
    assert programs_url("gs://bucket/gemma-4-31b-it/", "0123") == "gs://bucket/compile-cache/gemma-4-31b-it/0123"

"""What this project reaches into of Ray and vLLM beyond their public APIs: each fails here when an upgrade moves it.

What an override does is shown by other tests; these say which line of upstream to look at.
"""

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

from apps.common.imports import without_gc

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def llm_server() -> Any:
    """`apps.llm.server`, which imports Ray Serve LLM and vLLM."""
    with without_gc():
        from apps.llm import server
    return server


def test_vllms_engine_core_process_takes_its_context_from_where_it_is_swapped() -> None:
    from vllm.v1.engine import utils

    assert "context = get_mp_context()" in inspect.getsource(utils.CoreEngineProcManager)


def test_what_the_fork_server_preloads_can_be_imported() -> None:
    with without_gc():
        import apps.llm.preload  # noqa: F401


@pytest.mark.parametrize("kind", ["cpu", "tpu"])
def test_rays_engine_config_asks_one_backend_for_its_placement_group(llm_server: Any, kind: str) -> None:
    from ray.llm._internal.serve.engines.vllm import vllm_models

    config: dict[str, Any] = {"model_loading_config": {"model_id": "m"}, "accelerator_config": {"kind": kind}}
    if kind == "tpu":
        config |= {"accelerator_type": "TPU-V6E", "accelerator_config": {"kind": kind, "topology": "4x4"}}
    llm_config = llm_server.make_llm_config(config)
    group = object()
    llm_server._use_placement_group(llm_config, group)
    assert llm_config.get_engine_config().accelerator.create_placement_group(name="any") is group
    asked = inspect.getsource(vllm_models.VLLMEngineConfig.get_or_create_pg)
    assert "pg = self.accelerator.create_placement_group(" in asked


def test_rays_server_and_engine_have_the_methods_that_are_overridden(llm_server: Any) -> None:
    own, rays = (
        (llm_server.Server, llm_server.Engine, llm_server.Ingress),
        (
            llm_server.LLMServer,
            llm_server.VLLMEngine,
            llm_server.OpenAiIngress,
        ),
    )
    added = {"ended"}  # this project's own
    for subclass, base in zip(own, rays, strict=True):
        overridden = {name for name in vars(subclass) if callable(vars(subclass)[name])} - {"__init__"} - added
        assert {name for name in overridden if not hasattr(base, name)} - {"_set_asgi_app"} == set()


def test_serves_replica_opens_its_grpc_port_by_the_function_that_is_swapped() -> None:
    from ray.serve._private import replica

    assert "add_port_to_grpc_server(" in inspect.getsource(replica.Replica)


def test_rays_gcs_client_tells_of_draining_nodes() -> None:
    from ray.core.generated import autoscaler_pb2

    raylet: Any = importlib.import_module("ray._raylet")

    assert callable(raylet.InnerGcsClient.get_draining_nodes)
    assert callable(raylet.InnerGcsClient.drain_node)
    assert autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION == 2


def test_ray_start_asks_the_constant_that_the_emulated_hosts_replace() -> None:
    from ray._private import ray_constants
    from ray.scripts import scripts

    assert hasattr(ray_constants, "ENABLE_RAY_CLUSTER")
    assert "if not ray_constants.ENABLE_RAY_CLUSTER" in Path(scripts.__file__).read_text()

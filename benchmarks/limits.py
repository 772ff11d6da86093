"""The slice behind a result and what it cannot exceed, from the Serve config that the result holds."""

from dataclasses import dataclass, replace
from typing import Any

from apps.checks.tpu_memory import layout_of, shape_of
from apps.errors import UserError
from apps.slice.roofline import Ceilings, ceilings
from apps.slice.topology import slice_of

_SIMULATED = ("emulated_slice", "RAYLLM_VLLM_ENGINE_CLS")


@dataclass(frozen=True)
class Limits:
    """`ceilings` of all replicas together, `one` of a single one."""

    ceilings: Ceilings
    one: Ceilings
    name: str
    """As `v6e 4x4`, with the number of replicas if there are several."""

    @property
    def chips(self) -> int:
        return self.ceilings.layout.chips


def limits_of(llm_config: dict[str, Any] | None) -> Limits | None:
    """None where there is no TPU slice, or the model's shape is not known."""
    if not llm_config or not (asked := _asked_slice(llm_config)):
        return None
    shape = shape_of(llm_config)
    if shape is None:
        return None
    engine = llm_config.get("engine_kwargs") or {}
    try:
        found = slice_of(*asked)
        layout = replace(layout_of(shape, engine), pipeline_parallel=engine.get("pipeline_parallel_size") or 1)
    except UserError:
        return None
    replicas = _replicas(llm_config)
    together = replace(layout, data_parallel=layout.data_parallel * replicas)
    name = f"{found.generation.name} {found.topology}" + (f", {replicas} replicas" if replicas > 1 else "")
    return Limits(ceilings(together, found.generation), ceilings(layout, found.generation), name)


def is_simulated(llm_config: dict[str, Any] | None) -> bool:
    """Whether no chip computed the answers: an emulated slice, or the simulated engine."""
    config = llm_config or {}
    experiments = config.get("experimental_configs") or {}
    variables = (config.get("runtime_env") or {}).get("env_vars") or {}
    return any(name in experiments or name in variables for name in _SIMULATED)


def _asked_slice(llm_config: dict[str, Any]) -> tuple[str, str] | None:
    accelerator = llm_config.get("accelerator_config") or {}
    if accelerator.get("kind") != "tpu" or not llm_config.get("accelerator_type"):
        return None
    return llm_config["accelerator_type"], accelerator.get("topology", "")


def _replicas(llm_config: dict[str, Any]) -> int:
    deployment = llm_config.get("deployment_config") or {}
    scaling = deployment.get("autoscaling_config") or {}
    count = scaling.get("max_replicas") or deployment.get("num_replicas") or 1
    return count if isinstance(count, int) else 1

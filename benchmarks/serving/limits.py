"""The slice behind a result and what it cannot exceed, from the Serve config that the result holds."""

from dataclasses import dataclass, replace
from typing import Any

from apps.checks.slice_rules import layout_of, shape_of
from apps.common.errors import UserError
from apps.slice.memory import Layout
from apps.slice.roofline import Ceilings, ceilings
from apps.slice.topology import Generation, slice_of

_SIMULATED = ("emulated_slice", "RAYLLM_VLLM_ENGINE_CLS")


@dataclass(frozen=True)
class SliceLimits:
    """Limits of a slice, or of several that share the load."""

    layout: Layout
    """Layout of one replica."""
    replicas: int
    generation: Generation
    topology: str
    tokens_per_step: float = 1.0
    """Tokens of a sequence in a step; more than one with speculative decoding."""

    @property
    def name(self) -> str:
        """Slice as `v6e 4x4`, with the number of replicas if there are several."""
        several = f", {self.replicas} replicas" if self.replicas > 1 else ""
        return f"{self.generation.name} {self.topology}{several}"

    @property
    def chips(self) -> int:
        return self.layout.chips * self.replicas

    def batch(self, sequences: int, context: int) -> Ceilings:
        """Ceilings of all replicas, with so many sequences at once that have `context` tokens each."""
        layout = replace(self.layout, data_parallel=self.layout.data_parallel * self.replicas)
        return self._of(ceilings(layout, self.generation, max(1, sequences), context=context))

    def single_stream(self, prompt: int) -> Ceilings:
        """Ceilings of one replica with a single sequence, of whose prompt `prompt` tokens must be computed."""
        return self._of(ceilings(self.layout, self.generation, 1, prompt=max(1, prompt)))

    def _of(self, one_token: Ceilings) -> Ceilings:
        """Ceilings with as many tokens in a step as there were; what checking the draft costs is left out."""
        output, tpot = one_token.output_tok_per_s * self.tokens_per_step, one_token.tpot_s / self.tokens_per_step
        return replace(one_token, output_tok_per_s=output, tpot_s=tpot)


def limits_of(
    llm_config: dict[str, Any] | None, replicas: int | None = None, tokens_per_step: float | None = None
) -> SliceLimits | None:
    """The limits of a model's LLM config; None where there is no TPU slice, or the model's shape is not known.

    `replicas` and `tokens_per_step` were measured; where not, they are the most that the config allows.
    """
    accelerator = (llm_config or {}).get("accelerator_config") or {}
    if not llm_config or accelerator.get("kind") != "tpu" or not llm_config.get("accelerator_type"):
        return None
    shape, engine = shape_of(llm_config), llm_config.get("engine_kwargs") or {}
    if shape is None:
        return None
    try:
        on = slice_of(llm_config["accelerator_type"], accelerator.get("topology", ""))
        layout = replace(layout_of(shape, engine), pipeline_parallel=engine.get("pipeline_parallel_size") or 1)
    except UserError:
        return None
    count = replicas or configured_replicas(llm_config)[1]
    return SliceLimits(layout, count, on.generation, on.topology, tokens_per_step or 1.0 + draft_tokens(llm_config))


def is_simulated(llm_config: dict[str, Any] | None) -> bool:
    """Whether no chip computed the answers: an emulated slice, or the simulated engine."""
    config = llm_config or {}
    experiments = config.get("experimental_configs") or {}
    variables = (config.get("runtime_env") or {}).get("env_vars") or {}
    return any(name in experiments or name in variables for name in _SIMULATED)


def configured_replicas(llm_config: dict[str, Any]) -> tuple[int, int]:
    """The fewest and the most replicas that a config allows."""
    deployment = llm_config.get("deployment_config") or {}
    scaling = deployment.get("autoscaling_config")
    if not scaling:
        count = deployment.get("num_replicas")
        return (count, count) if isinstance(count, int) else (1, 1)
    low, high = scaling.get("min_replicas"), scaling.get("max_replicas")
    return (low if isinstance(low, int) else 1), (high if isinstance(high, int) else 1)


def draft_tokens(llm_config: dict[str, Any]) -> int:
    """Tokens that speculative decoding adds to a step at the most; 0 without it."""
    speculative = (llm_config.get("engine_kwargs") or {}).get("speculative_config") or {}
    return int(speculative.get("num_speculative_tokens") or 0)

"""Arguments of the LLM app in a Serve config. Light: the offline checks import them without Ray."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from apps.guard.settings import GuardArgs


class LLMArgs(BaseModel):
    """`llm_configs` are Ray's own `LLMConfig`s; direct streaming takes exactly one. `apps.checks` validates them."""

    model_config = ConfigDict(extra="forbid")

    llm_configs: list[dict[str, Any]] = Field(min_length=1)
    """Ray Serve LLM's `LLMConfig`, as in serve_configs/gemma.yaml."""
    guard: GuardArgs | None = None
    """Keys and limits. Without it the server refuses to start where other machines can reach it."""

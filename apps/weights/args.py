"""Settings of an LLM config for its weights on the hosts; the app, the replica and the offline checks read them. Light."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from apps.weights.retry import STALL_S

Mode = Literal["slice-once", "per-host", "stream"]
MODES: tuple[str, ...] = get_args(Mode)

MAX_CONNECTIONS = 64
"""Connections to a bucket from one host."""

CALLBACK = "apps.llm.callbacks.Prefetch"
HOST = "{host}"
"""Stands for the host's own name in a `model_source` or `to`, where the hosts of a slice share one disk (an emulated slice)."""


class PrefetchArgs(BaseModel):
    """`callback_kwargs` of the prefetch."""

    model_config = ConfigDict(extra="forbid")

    url: str | None = None  # where the model is staged; none: WEIGHTS_URL of the hosts
    to: str | None = None  # directory on each host; none: the config's model_source
    mode: Mode = "slice-once"  # bytes leave the bucket once, or once for each host; `stream`: vLLM itself reads them
    stall_s: float = Field(default=STALL_S, gt=0)  # longest time that a range may bring nothing


def asks_for_prefetch(config: Mapping[str, Any]) -> bool:
    """True for an LLM config whose weights are copied to the hosts before its engine starts."""
    return (config.get("callback_config") or {}).get("callback_class") == CALLBACK


def prefetch_args(config: Mapping[str, Any]) -> PrefetchArgs:
    """The prefetch's arguments in an LLM config. Raises pydantic's error for wrong ones."""
    return PrefetchArgs(**((config.get("callback_config") or {}).get("callback_kwargs") or {}))


def directory_on(host: str, source: str) -> str:
    """The directory for the weights on a host such as `slice-a/2`."""
    return source.replace(HOST, host.replace("/", "-"))

"""Fail the requests that the real TPU engine cannot serve (tpu-inference 0.29), in the same way.

This repeats the guard's own table on purpose, so that a test can compare the two.
"""

from typing import TYPE_CHECKING

from apps.common.errors import UserError

if TYPE_CHECKING:
    from emulation.sim.protocol import ChatRequest, CompletionRequest


class EngineDeadError(Exception):
    """A step has raised: no request gets a response any more, until the replica is replaced."""

    def __init__(self) -> None:
        super().__init__("EngineCore encountered an issue. See stack trace (above) for the root cause.")


class RequestFailedError(Exception):
    """This one request fails with 500."""


def check(asked: "ChatRequest | CompletionRequest") -> None:
    """Raise what the request fails with before or after the engine's steps: `UserError` or `RequestFailedError`."""
    if asked.seed is not None and asked.temperature != 0:
        raise UserError("JAX does not support per-request seed.")
    if asked.wants_logprobs and not asked.logprobs_count:
        raise RequestFailedError("list index out of range")
    if asked.wants_logprobs and in_step(asked) is None:
        raise UserError("logprobs: the simulated engine has none")


def in_step(asked: "ChatRequest | CompletionRequest") -> Exception | None:
    """The error that a step with the request raises; None where it raises none."""
    if asked.prompt_logprobs is not None or (asked.echo and asked.logprobs_count is not None):
        return ValueError("prompt_logprobs is not supported for multimodal models")
    if asked.allowed_token_ids:
        return TypeError("Cannot interpret '262144' as a data type")
    return None

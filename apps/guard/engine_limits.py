"""What an engine cannot do of the fields that vLLM's server takes: one table for each engine, with where it was read.

On a TPU some ordinary fields raise inside the engine's step, which ends the engine for everybody; others are dropped.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from apps.guard.answers import Refusal

EngineName = Literal["vllm", "vllm-tpu"]


class Unsupported(NamedTuple):
    """A field, the values of it that change nothing, what else does, and where that was read."""

    effect: Literal["kills", "fails", "ignored"]
    neutral: tuple[Any, ...]
    source: str


_SAMPLING = "tpu-inference 0.29 to 0.32: only temperature, top_k and top_p reach the device (tpu-inference#3213, #1524)"
UNSUPPORTED: dict[EngineName, dict[str, Unsupported]] = {
    "vllm": {},
    "vllm-tpu": {
        "prompt_logprobs": Unsupported("kills", (None,), "tpu_runner.py:1617, ValueError inside the step"),
        "allowed_token_ids": Unsupported("kills", (None,), "input_batch.py:446, TypeError in the step (tpu-inference#3083)"),
        "seed": Unsupported("fails", (None,), "tpu_platform.py:620, ValueError"),
        "presence_penalty": Unsupported("ignored", (None, 0), _SAMPLING),
        "frequency_penalty": Unsupported("ignored", (None, 0), _SAMPLING),
        "repetition_penalty": Unsupported("ignored", (None, 1), _SAMPLING),
        "min_p": Unsupported("ignored", (None, 0), _SAMPLING),
        "logit_bias": Unsupported("ignored", (None, {}), _SAMPLING),
        "bad_words": Unsupported("ignored", (None, []), _SAMPLING),
        "min_tokens": Unsupported("ignored", (None, 0), _SAMPLING),
    },
}


def check_supported(fields: Mapping[str, Any], engine: EngineName, *, chat: bool, allow_ignored: bool) -> list[str]:
    """The names of fields that the engine will drop in silence, where that is allowed.

    Raises:
        Refusal: 400 for a field that would end the engine, that it fails at, or (unless allowed) that it ignores.
    """
    table = UNSUPPORTED[engine]
    used = [name for name in table if name in fields and fields[name] not in table[name].neutral]
    if engine == "vllm-tpu":
        _check_logprobs(fields, chat=chat)
    for name in used:
        if table[name].effect != "ignored" or not allow_ignored:
            raise _unsupported(name)
    return used


def _check_logprobs(fields: Mapping[str, Any], *, chat: bool) -> None:
    """Combinations: echo with logprobs ends the engine (tpu_runner.py:1617), a count of 0 is 500 (sampling_metadata.py:62)."""
    logprobs = fields.get("logprobs")
    if chat and logprobs is True and not fields.get("top_logprobs"):
        raise _unsupported("logprobs", "without top_logprobs of at least 1")
    if not chat and logprobs is not None and fields.get("echo"):
        raise _unsupported("logprobs", "together with echo")
    if not chat and logprobs == 0 and logprobs is not False:
        raise _unsupported("logprobs", "of 0: ask for at least 1")


def _unsupported(name: str, how: str = "") -> Refusal:
    message = f"{name} {how}".rstrip() + " cannot be had from this model's engine (vLLM on TPU). Leave it out."
    return Refusal(400, message, "unsupported_parameter", param=name)

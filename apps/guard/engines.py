"""What each flavour of engine cannot do with a request that vLLM's server takes: facts, each with its source.

Of vLLM on the CPU there is one alone: a token that the model does not have. Those of vLLM on TPU were read in tpu-inference
0.29 to 0.32, line numbers in 0.29.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from apps.guard.answers import Refusal, bad_value

Flavour = Literal["vllm-cpu", "vllm-tpu"]
Fields = Mapping[str, Any]


class Outcome(Enum):
    """What happens to a request that asks for it, as far as the engine decides."""

    ENDS = "the engine ends, for everybody"
    FAILS = "500"
    REFUSED = "400"
    IGNORED = "nothing: it is ignored"


def _is_set(name: str, *neutral: Any) -> Callable[[Fields], bool]:
    """True for a field with a value that asks for something."""
    return lambda fields: fields.get(name) is not None and fields[name] not in neutral


def _chat(fields: Fields) -> bool:
    return "messages" in fields


def _echoes_logprobs(fields: Fields) -> bool:
    return fields.get("echo") is True and (_chat(fields) or fields.get("logprobs") is not None)


def _logprobs_of_none(fields: Fields) -> bool:
    if _chat(fields):
        return fields.get("logprobs") is True and not fields.get("top_logprobs")
    return type(fields.get("logprobs")) is int and fields["logprobs"] == 0


def _random_seed(fields: Fields) -> bool:
    return fields.get("seed") is not None and fields.get("temperature") != 0


@dataclass(frozen=True)
class Inability:
    """`asked` says whether a request asks for it; `advice` what to do instead."""

    field: str
    outcome: Outcome
    asked: Callable[[Fields], bool]
    source: str
    advice: str = "Leave it out."


_DEVICE = "sampling_metadata.py: only temperature, top_k and top_p reach the device; tpu-inference#3213, #1524"
_PROMPT_LOGPROBS = "tpu_runner.py:1617 raises inside the step for multimodal models; marin#7390"
_NO_LOGPROBS = "sampling_metadata.py:62 takes 0 for none, vLLM's server then finds an empty list; tpu-inference#3572"

_IGNORED: dict[str, Any] = {
    **{"presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1, "min_p": 0, "logit_bias": {}, "bad_words": []},
    **{"min_tokens": 0, "thinking_token_budget": -1},
}
"""Fields, each with the value that asks for nothing."""

_TPU = (
    Inability("prompt_logprobs", Outcome.ENDS, _is_set("prompt_logprobs"), _PROMPT_LOGPROBS),
    Inability("echo", Outcome.ENDS, _echoes_logprobs, f"vLLM makes prompt_logprobs of it; {_PROMPT_LOGPROBS}"),
    Inability(
        "allowed_token_ids",
        Outcome.ENDS,
        _is_set("allowed_token_ids", []),
        "input_batch.py:446 calls jnp.zeros(a, b), a TypeError inside the step; tpu-inference#3083",
    ),
    Inability("logprobs", Outcome.FAILS, _logprobs_of_none, _NO_LOGPROBS, "Ask for at least one (top_logprobs in a chat)."),
    Inability("seed", Outcome.REFUSED, _random_seed, "tpu_platform.py:620; at temperature 0 it is let through"),
    *(Inability(name, Outcome.IGNORED, _is_set(name, neutral), _DEVICE) for name, neutral in _IGNORED.items()),
)

INABILITIES: dict[Flavour, tuple[Inability, ...]] = {"vllm-cpu": (), "vllm-tpu": _TPU}
_NAMES = {"vllm-cpu": "vLLM on the CPU", "vllm-tpu": "vLLM on TPU"}
_HARMLESS = (Outcome.REFUSED, Outcome.IGNORED)


def flavour_of(llm_configs: Iterable[Mapping[str, Any]]) -> Flavour:
    """The engine that the models of an app need; where they differ, the one that can do less."""
    kinds = {(config.get("accelerator_config") or {}).get("kind") for config in llm_configs}
    return "vllm-tpu" if "tpu" in kinds else "vllm-cpu"


def without_effect(fields: Fields, flavour: Flavour, *, drop: bool) -> list[str]:
    """Fields that the engine would refuse or ignore, to be taken out of the request.

    Args:
        drop: whether the client may leave them in. They are refused else.

    Raises:
        Refusal: 400, the request asks for what the engine cannot do.
    """
    asked = [inability for inability in INABILITIES[flavour] if inability.asked(fields)]
    for inability in asked:
        if not drop or inability.outcome not in _HARMLESS:
            what = "would have no effect" if inability.outcome in _HARMLESS else "is impossible"
            why = f"this server's engine, {_NAMES[flavour]}, cannot do that"
            message = f"{inability.field} {what} here: {why}. {inability.advice}"
            raise Refusal(400, message, "unsupported_parameter", param=inability.field)
    return [inability.field for inability in asked]


def warning(names: list[str], flavour: Flavour) -> str:
    """The `warning` header of an answer to a request without these fields."""
    return f'299 - "without effect on {_NAMES[flavour]}, and left out: {", ".join(names)}"'


def vocabulary_size(directory: str | None) -> int | None:
    """Rows of the embedding, by the config.json in the model's directory; None where it does not say."""
    try:
        config = json.loads(Path(directory or "/dev/null", "config.json").read_text())
    except (OSError, ValueError):
        return None
    size = (config.get("text_config") or config).get("vocab_size")
    return size if isinstance(size, int) else None


def check_ids(prompt: Any, vocabulary: int | None) -> None:
    """Raise `Refusal` 400 for a token that the model does not have. `prompt` is what `fields` lets pass, text too.

    vLLM 0.29 refuses what is larger than the tokenizer's `vocab_size`, and lets that number itself through
    (`tokenizers/hf.py:139` takes a count for the largest id); the embedding has no such row, and the engine ends, with
    everybody's requests.
    """
    if vocabulary is None or not isinstance(prompt, list):
        return
    prompts = prompt if prompt and isinstance(prompt[0], list) else [prompt]
    largest = max((max(ids) for ids in prompts if ids and isinstance(ids[0], int)), default=0)  # may be 100,000: at C's speed
    if largest >= vocabulary:
        raise bad_value(f"prompt: token {largest} does not exist; the model has {vocabulary}, counted from 0.", "prompt")

"""How many tokens the model has: an id beyond them in a prompt ends vLLM's engine, with everybody's requests.

vLLM 0.29 refuses what is larger than the tokenizer's `vocab_size`, and lets that number itself through (`tokenizers/hf.py:139`
takes a count for the largest id); the embedding has no such row, and raises within the engine's step.
"""

import json
from pathlib import Path
from typing import Any

from apps.guard.answers import bad_value


def model_vocabulary(directory: str | None) -> int | None:
    """Rows of the embedding, by the config.json in the model's directory; None where it does not say."""
    try:
        config = json.loads(Path(directory or "/dev/null", "config.json").read_text())
    except (OSError, ValueError):
        return None
    size = (config.get("text_config") or config).get("vocab_size")
    return size if isinstance(size, int) else None


def check_ids(prompt: Any, vocabulary: int | None) -> None:
    """Raise `Refusal` 400 for a token that the model does not have. `prompt` is what `fields` lets pass, text too."""
    if vocabulary is None or not isinstance(prompt, list):
        return
    prompts = prompt if prompt and isinstance(prompt[0], list) else [prompt]
    largest = max((max(ids) for ids in prompts if ids and isinstance(ids[0], int)), default=0)  # may be 100,000: at C's speed
    if largest >= vocabulary:
        raise bad_value(f"prompt: token {largest} does not exist; the model has {vocabulary}, counted from 0.", "prompt")

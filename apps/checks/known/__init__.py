"""JSON Schemas of what the pinned Ray and vLLM accept, in files that `python -m tests.checks.refresh` writes."""

import functools
import json
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent


@functools.cache
def schema(name: str) -> dict[str, Any]:
    """One of `serve` (a Serve config file), `llm` (Ray's LLMConfig) and `engine` (vLLM's engine and frontend arguments)."""
    return dict(json.loads((DIRECTORY / f"{name}.json").read_text()))

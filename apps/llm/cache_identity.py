"""Name the compiled programs that fit a replica, by everything that XLA's programs depend on."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

COMPILERS = ("jax", "jaxlib", "libtpu", "libtpu-nightly", "tpu-inference", "vllm", "vllm-tpu")
"""Packages that decide what is compiled. Two images with the same versions of them share their programs."""
_DIRECTORY = "VLLM_XLA_CACHE_PATH"  # decides where programs are, not what is in them
FOLDER = "compile-cache"
"""Folder in the bucket, beside the models."""


def identity(config: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    """Name of 16 hex digits for an LLM config, with its environment variables, and the installed versions of `COMPILERS`.

    JAX compares the program itself once more when it loads one, so a name that is too coarse costs a compilation and never a
    wrong answer.
    """
    variables = dict((config.get("runtime_env") or {}).get("env_vars") or {})
    variables.pop(_DIRECTORY, None)
    slice_of_it = [config.get("accelerator_type"), (config.get("accelerator_config") or {}).get("topology")]
    facts = [
        config["model_loading_config"]["model_id"],
        slice_of_it,
        config.get("engine_kwargs") or {},
        variables,
        dict(versions),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def programs_url(weights_url: str, name: str) -> str:
    """URL of the programs of a model that is staged at `gs://BUCKET/MODEL`: `gs://BUCKET/compile-cache/MODEL/NAME`."""
    bucket, _, model = weights_url.rstrip("/").rpartition("/")
    return f"{bucket}/{FOLDER}/{model}/{name}"

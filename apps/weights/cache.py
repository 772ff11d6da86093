"""The weights cache of this machine, and the meaning of a model's `source`: a cached name, a directory, or a hub id."""

import re
from pathlib import Path

from apps.common.errors import UserError
from apps.common.settings import cache_root
from apps.weights import receipt

CACHE_SCHEME = "cache:"
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")


def cached_directory(name: str) -> Path:
    """Directory of the weights of that name in the cache, whether they are there or not."""
    return cache_root() / "weights" / name


def resolve_source(source: str) -> str:
    """Turn a model source into what vLLM loads: an absolute directory, or a hub id left as it is.

    Args:
        source: `cache:NAME` (this machine's cache), a path to a directory with a `config.json`, or a hub id (`org/name`).

    Raises:
        UserError: the directory does not exist or holds no model, or the source is none of the three.
        ContentError: cached weights do not match their receipt.
    """
    if source.startswith(CACHE_SCHEME):
        directory = cached_directory(source.removeprefix(CACHE_SCHEME))
        receipt.verify(directory)
        return str(directory)
    path = Path(source).expanduser()
    if path.is_dir():
        return str(_model_directory(path.resolve()))
    if _HUB_ID.match(source):
        return source
    raise UserError(
        f"model source {source!r}: no such directory, and not a hub id; give a directory with config.json and "
        f"*.safetensors, a hub id such as google/gemma-3-270m, or {CACHE_SCHEME}NAME"
    )


def _model_directory(path: Path) -> Path:
    if not (path / "config.json").is_file():
        raise UserError(f"{path} has no config.json: give the directory of a model in Hugging Face form")
    if not any(path.glob("*.safetensors")):
        raise UserError(f"{path} has no *.safetensors: only weights in that form are served")
    if (path / receipt.RECEIPT_NAME).exists():
        receipt.verify(path)
    return path

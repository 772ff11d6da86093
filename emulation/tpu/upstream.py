"""Replace a part of tpu-inference (pinned: 0.29.0), and say so where an upgrade has moved it."""

import importlib
import inspect
from importlib.metadata import version
from typing import Any

WRITTEN_FOR = "0.29.0"


class UpstreamMovedError(RuntimeError):
    """tpu-inference has no such part any more, or it takes other arguments."""


def replace(owner: str, name: str, by: Any, takes: str | None = None) -> Any:
    """Set `owner.name` to `by`, which an engine then uses. Returns what was there.

    Args:
        owner: a module, or a class in one (`package.module:Class`).
        takes: the names of the arguments that the original has, separated by spaces; None compares none.

    Raises:
        UpstreamMovedError: there is no such part, or it takes other arguments.
    """
    module, _, attribute = owner.partition(":")
    try:
        target = importlib.import_module(module)
        target = getattr(target, attribute) if attribute else target
        original = getattr(target, name)
    except (ImportError, AttributeError) as error:
        raise UpstreamMovedError(_moved(owner, name, str(error))) from error
    if takes is not None and (has := " ".join(inspect.signature(original).parameters)) != takes:
        raise UpstreamMovedError(_moved(owner, name, f"it takes ({has}), not ({takes})"))
    setattr(target, name, by)
    return original


def _moved(owner: str, name: str, why: str) -> str:
    return (
        f"emulation/tpu was written for tpu-inference {WRITTEN_FOR}, and {version('tpu-inference')} is installed, in which "
        f"{owner}.{name} is not what it replaces: {why}. Install the versions of runtime_env/requirements-tpu.txt"
    )
